// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"go/format"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// block is a fenced block of Go in a document.
type block struct {
	doc  string // relative to the repository
	line int    // of the fence
	text string
}

// at returns the place of the block, for messages.
func (b *block) at() string { return fmt.Sprintf("%s:%d", b.doc, b.line) }

// goBlocks returns the blocks fenced as go.
func goBlocks(name, text string) ([]block, error) {
	var blocks []block
	var open *block // inside a go block
	fence := ""     // inside any block
	for i, line := range splitLines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case fence == "" && strings.HasPrefix(trimmed, "```"):
			info := strings.TrimLeft(trimmed, "`")
			fence = trimmed[:len(trimmed)-len(info)]
			if lang, _, _ := strings.Cut(strings.TrimSpace(info), " "); lang == "go" || lang == "golang" {
				open = &block{doc: name, line: i + 1}
			}
		case fence != "" && trimmed == fence:
			if open != nil {
				blocks = append(blocks, *open)
			}
			open, fence = nil, ""
		case open != nil:
			open.text += line + "\n"
		}
	}
	if fence != "" {
		return nil, fmt.Errorf("%s: a fenced block is not closed", name)
	}
	return blocks, nil
}

// isProgram reports whether the block is a whole program.
func (b *block) isProgram() bool {
	return slices.ContainsFunc(splitLines(b.text), func(line string) bool { return strings.TrimSpace(line) == "package main" })
}

// documents returns the Go blocks of README.md, of the documents at the root
// and of docs.
func documents(t *testing.T) []block {
	t.Helper()
	var all []block
	for _, name := range repository(t).markdown {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := goBlocks(name, string(text))
		if err != nil {
			t.Error(err)
		}
		all = append(all, blocks...)
	}
	return all
}

// TestDocumentSnippets makes sure that Go in documents is formatted Go. What
// is not a whole program cannot be compiled, but it can be parsed.
func TestDocumentSnippets(t *testing.T) {
	t.Parallel()
	for _, b := range documents(t) {
		formatted, err := format.Source([]byte(b.text))
		if err != nil {
			t.Errorf("%s: %v", b.at(), err)
			continue
		}
		if diff := cmp.Diff(b.text, string(formatted)); diff != "" {
			t.Errorf("%s is not formatted (-document +gofmt):\n%s", b.at(), diff)
		}
	}
}

// TestDocumentPrograms compiles every program in the documents, as if it were
// a directory of the examples module: that one sees what a user's module sees,
// the root module and the drivers that people bring along.
func TestDocumentPrograms(t *testing.T) {
	t.Parallel()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	var args []string
	tmp, examples := t.TempDir(), absolute(t, "examples")
	readme := 0
	for i, b := range documents(t) {
		if !b.isProgram() {
			continue
		}
		if b.doc == "README.md" {
			readme++
		}
		if strings.Contains(b.text, modulePath+"/internal/") {
			t.Errorf("%s imports an internal package, which users cannot", b.at())
		}
		dir := fmt.Sprintf("document%d", i)
		file := filepath.Join(tmp, dir+".go")
		// The compiler reports places in the document.
		text := fmt.Sprintf("//line %s:%d\n%s", absolute(t, b.doc), b.line+1, b.text)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[filepath.Join(examples, dir, "main.go")] = file
		args = append(args, "./"+dir)
	}
	if readme == 0 {
		t.Error("README.md has no program: the first thing that a newcomer reads is one that compiles")
	}
	if len(args) == 0 {
		return
	}
	spec, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(tmp, "overlay.json")
	if err := os.WriteFile(file, spec, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := goTool(t.Context(), examples, nil, append([]string{"build", "-o", os.DevNull, "-overlay", file}, args...)...); err != nil {
		t.Error(err)
	}
}

// absolute returns the path of a file or directory of the repository.
func absolute(t *testing.T, name string) string {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func TestGoBlocks(t *testing.T) {
	t.Parallel()
	const text = "# x\n```go\npackage main\n```\ntext\n```sh\n```go\nls\n```\n````go title\na := 1\n```\n````\n"
	got, err := goBlocks("D.md", text)
	if err != nil {
		t.Fatal(err)
	}
	want := []block{{"D.md", 2, "package main\n"}, {"D.md", 10, "a := 1\n```\n"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(block{})); diff != "" {
		t.Errorf("blocks (-want +got):\n%s", diff)
	}
	if !got[0].isProgram() || got[1].isProgram() {
		t.Error("only the first block is a program")
	}
	if _, err := goBlocks("D.md", "```go\nx\n"); err == nil {
		t.Error("a block that is not closed passed")
	}
}
