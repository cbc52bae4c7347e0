// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const maxScript = 64 << 10

// The words are those of the manuals: MySQL and MariaDB (FLUSH TABLES, LOCK
// TABLES, LOCK INSTANCE, BACKUP STAGE, BACKUP LOCK), PostgreSQL (pg_backup_start,
// before version 15 pg_start_backup), SQLite and Oracle.
const lockWords = `flush\s+(local\s+|no_write_to_binlog\s+)?tables\b[^;"']*\bwith\s+read\s+lock|flush\s+tables\b[^;"']*\bfor\s+export|` +
	`lock\s+tables?\s+\S|lock\s+instance\s+for\s+backup|backup\s+stage\s+\w|backup\s+lock\s+\w|pg_backup_start\s*\(|pg_start_backup\s*\(|` +
	`begin\s+(immediate|exclusive)\b`

// oneShots run what they are given, and end: a client with its statements as an
// argument or at the end of a pipe, and whatever runs in a container for once.
const oneShots = `\b(mysql|mariadb|mysqlsh|psql)\b.*\s(-e|-c|--execute|--command)\b|\|\s*(\S*/)?(mysql|mariadb|psql|sqlite3)\b|` +
	`\bsqlite3\s+\S+\s+["']?begin|\b(docker|podman|kubectl|crictl)\b.*\sexec\s`

// sleeps are statements by which a client waits, and so holds its lock.
const sleeps = `sleep\s*\(|\bdo\s+sleep|\\!|\bsystem\s`

// frozenForms are ways to freeze, and what undoes them.
func frozenForms() []struct {
	name         string
	freeze, thaw *regexp.Regexp
} {
	return []struct {
		name         string
		freeze, thaw *regexp.Regexp
	}{
		{"fsfreeze -f", regexp.MustCompile(`\bfsfreeze\s+(-f|--freeze)\b`), regexp.MustCompile(`\bfsfreeze\s+(-u|--unfreeze)\b`)},
		{"xfs_freeze -f", regexp.MustCompile(`\bxfs_freeze\s+-f\b`), regexp.MustCompile(`\bxfs_freeze\s+-u\b|\bfsfreeze\s+(-u|--unfreeze)\b`)},
		{"dmsetup suspend", regexp.MustCompile(`\bdmsetup\s+suspend\b`), regexp.MustCompile(`\bdmsetup\s+resume\b`)},
		{"fsyncLock", regexp.MustCompile(`\bfsyncLock\b|\bfsync['"]?\s*:\s*1\s*,\s*['"]?lock['"]?\s*:\s*(1|true)`), regexp.MustCompile(`\bfsyncUnlock\b`)},
	}
}

// programs checks the programs of a member.
func (c *check) programs(m *member) {
	held, freeze, thaw := textOf(m.d.Held), textOf(m.d.Freeze), textOf(m.d.Thaw)
	for _, argv := range [][]string{m.d.Held, m.d.Freeze, m.d.Thaw} {
		if isShellString(argv) {
			c.add(Warning, ShellString, m, "", "Write a program, or a script in a file of its own, and give it its arguments one by one",
				"the program %q gets its commands as a string: names with spaces or quotes are taken for commands, the status is that of the last one, and a pipe hides what failed", filepath.Base(argv[0]))
		}
	}
	const fix = "Hold the session open for the length of the freeze: a recipe of hooks, or a program for command.New that says READY and waits for the end of its input"
	for _, word := range lostLocks(freeze, ``) {
		c.add(Error, OneShotLock, m, "", fix, "the lock of %.60q ends with the client that takes it, before the cut begins: nothing is held", word)
	}
	for _, word := range lostLocks(held, oneShots) {
		c.add(Error, OneShotLock, m, "", fix, "the lock of %.60q ends with the client that takes it, before the program says READY: nothing is held", word)
	}
	for _, form := range frozenForms() {
		for _, pair := range [][2]string{{held, held}, {freeze, thaw}} {
			if form.freeze.MatchString(pair[0]) && !form.thaw.MatchString(pair[1]) {
				c.add(Error, UnpairedFreeze, m, "", "Thaw in the thaw program of a pair, or after the end of the input in a held program; for file systems use hooks/fsfreeze",
					"%s is not undone: the target stays frozen", form.name)
			}
		}
	}
}

// lostLocks returns the statements that take a lock, in lines that match how,
// without anything that waits.
func lostLocks(text, how string) []string {
	lock, way, wait := regexp.MustCompile(`(?i)`+lockWords), regexp.MustCompile(`(?i)`+how), regexp.MustCompile(`(?i)`+sleeps)
	var words []string
	for line := range strings.Lines(text) {
		if word := lock.FindString(line); word != "" && way.MatchString(line) && !wait.MatchString(line) {
			words = append(words, word)
		}
	}
	return words
}

// isShellString says whether a shell is given a string to run.
func isShellString(argv []string) bool {
	if len(argv) < 3 || !slices.Contains([]string{"sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"}, filepath.Base(argv[0])) {
		return false
	}
	return slices.ContainsFunc(argv[1:], func(arg string) bool {
		return len(arg) > 1 && arg[0] == '-' && arg[1] != '-' && strings.HasSuffix(arg, "c")
	})
}

// textOf returns the arguments of a program, and the scripts that it runs.
func textOf(argv []string) string {
	text := []string{strings.Join(argv, " ")}
	for _, file := range programFiles(argv) {
		text = append(text, script(file))
	}
	return strings.Join(text, "\n")
}

// programFiles returns the program and the files among its arguments.
func programFiles(argv []string) []string {
	var files []string
	for i, arg := range argv {
		if !filepath.IsAbs(arg) {
			continue
		}
		if info, err := os.Stat(arg); i == 0 || err == nil && info.Mode().IsRegular() {
			files = append(files, arg)
		}
	}
	return files
}

// script returns the text of a script without its comments, or nothing.
func script(name string) string {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxScript {
		return ""
	}
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxScript))
	if err != nil || !strings.HasPrefix(string(b), "#!") {
		return ""
	}
	var text strings.Builder
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			text.WriteString(line)
		}
	}
	return text.String()
}

// frozenBy returns the paths that a program freezes as its arguments say.
func frozenBy(argv []string) []string {
	var paths []string
	freeze := regexp.MustCompile(`\b(?:fsfreeze|xfs_freeze)\s+(?:-f|--freeze)\s+["']?(/[^\s"';&|]*)`)
	for _, match := range freeze.FindAllStringSubmatch(textOf(argv), -1) {
		paths = append(paths, match[1])
	}
	return paths
}
