// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// listed is what go list says about a package.
type listed struct {
	ImportPath string
	Standard   bool
	Export     string   // file with the type information, with -export
	Deps       []string // everything it imports, directly or not
	Module     *struct{ Path string }
	Error      *struct{ Err string }
	DepsErrors []struct{ Err string }
}

// problem returns the error of the package or of something it imports.
func (l *listed) problem() error {
	if l.Error != nil {
		return errors.New(l.Error.Err)
	}
	if len(l.DepsErrors) > 0 {
		return errors.New(l.DepsErrors[0].Err)
	}
	return nil
}

// goList runs go list in the root module and returns the packages by import
// path.
func goList(ctx context.Context, env []string, args ...string) (map[string]*listed, error) {
	args = append([]string{"list", "-e", "-json=ImportPath,Standard,Export,Deps,Module,Error,DepsErrors"}, args...)
	out, err := goTool(ctx, root, env, args...)
	if err != nil {
		return nil, err
	}
	pkgs := map[string]*listed{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		switch err := dec.Decode(&l); {
		case errors.Is(err, io.EOF):
			return pkgs, nil
		case err != nil:
			return nil, err
		}
		pkgs[l.ImportPath] = &l
	}
}

// goTool runs the go command in dir and returns its standard output.
func goTool(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// importPath returns the import path of a directory of the root module.
func importPath(dir string) string {
	if dir == "." {
		return modulePath
	}
	return modulePath + "/" + dir
}
