// SPDX-License-Identifier: Apache-2.0

package mutants_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stillpoint-go/protect/internal/realtest"
)

var (
	all  = flag.Bool("all", false, "compile and test every mutant, which takes minutes")
	only = flag.String("only", "", "those whose name matches, like -all")
)

const module = "../.."

// TestMutants shows with -all that each mutant is noticed. Otherwise it checks
// that all of them are mutants of what the code is now.
func TestMutants(t *testing.T) {
	chosen, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants() {
		t.Run(strings.ReplaceAll(m.name, " ", "_"), func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(module, m.file))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), m.old); n != 1 {
				t.Fatalf("%s has %d places like %q, want one", m.file, n, m.old)
			}
			if (*all || *only != "") && chosen.MatchString(m.name) {
				m.test(t, strings.Replace(string(text), m.old, m.new, 1))
			}
		})
	}
}

// test builds the tests of the package with the broken file, and runs them.
func (m *mutant) test(t *testing.T, text string) {
	t.Helper()
	realtest.Require(t, !m.root || os.Geteuid() == 0, "mounting needs root")
	dir := t.TempDir()
	broken, overlay, binary := filepath.Join(dir, "broken.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "test")
	original, err := filepath.Abs(filepath.Join(module, m.file))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(map[string]map[string]string{"Replace": {original: broken}})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{broken: []byte(text), overlay: spec} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, "./"+m.pkg)
	build.Dir = module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("it does not compile: %v\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), binary, "-test.run", m.run, "-test.timeout", "5m")
	run.Dir = filepath.Join(module, m.pkg)
	out, err := run.CombinedOutput()
	switch {
	case err == nil:
		t.Errorf("%s does not notice it:\n%s", m.run, out)
	case !bytes.Contains(out, []byte("--- FAIL")) && !bytes.Contains(out, []byte("panic: ")):
		t.Errorf("%s: %v\n%s", m.run, err, out)
	default:
		t.Logf("noticed: %s", firstComplaint(out))
	}
}

// firstComplaint returns the first line of a test's output that says what is
// wrong.
func firstComplaint(out []byte) string {
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go:") || strings.HasPrefix(line, "panic: ") {
			return strings.TrimSpace(line)
		}
	}
	return "without a word"
}
