// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/stillpoint-go/protect/repo"
)

const passwordVariable = "PROTECT_PASSWORD"

// maxPassword bounds a password, in bytes.
const maxPassword = 64 << 10

// key returns the key that the password is for.
func (c *cli) key() (repo.Key, error) {
	password := c.password
	if c.passwordFile != "" {
		var err error
		if password, err = readPassword(c.passwordFile); err != nil {
			return repo.Key{}, fmt.Errorf("password file: %w", err)
		}
	}
	if password == "" {
		return repo.Key{}, errors.New("there is no password: use --password-file or $" + passwordVariable)
	}
	return repo.Passphrase(password), nil
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
