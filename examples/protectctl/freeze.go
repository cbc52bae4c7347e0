// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/shlex"
	"github.com/spf13/pflag"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/command"
)

// thawGrace is how long a program may take to thaw before it is killed.
const thawGrace = 10 * time.Second

// freezeFlags say how to freeze the application.
type freezeFlags struct {
	hold, freeze, thaw, held string
	window                   time.Duration
	journal                  string
}

func (f *freezeFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.hold, "hold", "", "program that freezes, prints READY, and thaws when its stdin ends")
	fs.StringVar(&f.freeze, "freeze", "", "program that freezes the application until --thaw")
	fs.StringVar(&f.thaw, "thaw", "", "program that thaws it; it runs whatever happens, also when nothing is frozen")
	fs.StringVar(&f.held, "held", "", "program that ends with 0 only if the application is still frozen by --freeze; without it nothing is proven")
	fs.DurationVar(&f.window, "window", hooks.DefaultWindow, "longest time for the application to be frozen, at most "+hooks.MaxWindow.String())
	fs.StringVar(&f.journal, "journal", "", "directory that remembers freezes over the death of this program; default: in the user's cache")
}

// check refuses flags that contradict each other.
func (f *freezeFlags) check() error {
	switch {
	case f.hold != "" && f.freeze+f.thaw != "":
		return errors.New("--hold does what --freeze and --thaw do: use one or the other")
	case (f.freeze == "") != (f.thaw == ""):
		return errors.New("--freeze and --thaw belong together")
	case f.held != "" && f.freeze == "":
		return errors.New("--held belongs to --freeze and --thaw")
	case f.window <= 0:
		return fmt.Errorf("--window %v: want more than that", f.window)
	}
	return nil
}

// freezes reports whether there is something to freeze.
func (f *freezeFlags) freezes() bool { return f.hold+f.freeze != "" }

// members returns what to freeze. The names are in the journal: they stay the
// same.
func (f *freezeFlags) members(opts command.Options) ([]protect.Member, error) {
	// The programs are the user's, as if typed into the shell. (The password
	// is not in the environment any more.)
	opts.Env = os.Environ()
	opts.Grace, opts.ThawTimeout = thawGrace, thawGrace
	switch {
	case f.hold != "":
		argv, err := shlex.Split(f.hold)
		if err != nil {
			return nil, fmt.Errorf("--hold: %w", err)
		}
		q, err := command.New(argv, &opts)
		if err != nil {
			return nil, err
		}
		return []protect.Member{{Name: "hold", Quiescer: q}}, nil
	case f.freeze != "":
		freeze, err := shlex.Split(f.freeze)
		if err != nil {
			return nil, fmt.Errorf("--freeze: %w", err)
		}
		thaw, err := shlex.Split(f.thaw)
		if err != nil {
			return nil, fmt.Errorf("--thaw: %w", err)
		}
		if opts.Held, err = shlex.Split(f.held); err != nil {
			return nil, fmt.Errorf("--held: %w", err)
		}
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		opts.Helper = []string{self}
		if opts.Lock, err = f.lock(); err != nil {
			return nil, err
		}
		q, err := command.NewPair(freeze, thaw, &opts)
		if err != nil {
			return nil, err
		}
		return []protect.Member{{Name: "pair", Quiescer: q}}, nil
	default:
		return nil, nil
	}
}

// openJournal returns where freezes are remembered, nil if they need not be
// because they end with this process.
func (f *freezeFlags) openJournal() (hooks.Journal, error) {
	if f.freeze == "" {
		return nil, nil // no journal is a fine journal
	}
	dir, err := f.journalDir()
	if err != nil {
		return nil, err
	}
	return hooks.OpenDirJournal(dir)
}

// journalDir returns the directory of the journal, which need not exist yet.
func (f *freezeFlags) journalDir() (string, error) {
	if f.journal != "" {
		return filepath.Abs(f.journal)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("there is no place for the journal, use --journal: %w", err)
	}
	dir := filepath.Join(cache, "protectctl", "journal")
	return dir, os.MkdirAll(filepath.Dir(dir), 0o700)
}

// lock returns the file that stands for what the programs freeze. Who freezes
// the same with other programs does not share it.
func (f *freezeFlags) lock() (string, error) {
	dir, err := f.journalDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(f.freeze + "\x00" + f.thaw))
	return filepath.Join(dir, fmt.Sprintf("lock-%x", sum[:8])), nil
}

// recoverFreezes thaws what a killed backup of the application left frozen. It
// needs no repository: nothing that fails may come before it.
func (c *cli) recoverFreezes(ctx context.Context, app *protect.Application, journal hooks.Journal) error {
	var members []hooks.Member
	for _, m := range app.Members {
		members = append(members, hooks.Member{Name: m.Name, Quiescer: m.Quiescer, DependsOn: m.DependsOn})
	}
	g, err := hooks.NewGroup(app.Name, members, &hooks.GroupOptions{Window: app.Window, Journal: journal, Logger: c.log})
	if err != nil {
		return err
	}
	return g.Recover(ctx)
}
