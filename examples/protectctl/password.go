// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/stillpoint-go/protect/repo"
)

const passwordVariable = "PROTECT_PASSWORD"

// maxPassword bounds a password, in bytes.
const maxPassword = 64 << 10

// key returns the key that the password is for.
func (c *cli) key() (repo.Key, error) { return c.keyFrom("") }

// keyFrom returns the key for the password in a file, or that of the first
// repository.
func (c *cli) keyFrom(file string) (repo.Key, error) {
	password := c.password
	if file == "" {
		file = c.passwordFile
	}
	if file != "" {
		var err error
		if password, err = readPassword(file); err != nil {
			return repo.Key{}, fmt.Errorf("password file: %w", err)
		}
	}
	if password == "" {
		return repo.Key{}, errors.New("there is no password: use --password-file or $" + passwordVariable)
	}
	return repo.Passphrase(password), nil
}

// kdfFlag is the cost of guessing a new password.
type kdfFlag string

func (f *kdfFlag) register(fs *pflag.FlagSet) {
	fs.StringVar((*string)(f), "kdf", "default", `cost of guessing the password: "default" (Argon2id, 64 MiB), or "fast" for passwords that are random keys`)
}

// apply returns the key with that cost.
func (f kdfFlag) apply(key repo.Key) (repo.Key, error) {
	switch f {
	case "default":
		return key, nil
	case "fast":
		return key.WithKDF(1, 64, 1), nil // one pass over 64 KiB
	default:
		return key, fmt.Errorf("--kdf %q: want default or fast", string(f))
	}
}

// readPassword returns what is in the file, without the line end that editors
// add.
func readPassword(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxPassword {
		return "", fmt.Errorf("%q has more than %d bytes", name, maxPassword)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if password == "" {
		return "", fmt.Errorf("%q is empty", name)
	}
	return password, nil
}
