// SPDX-License-Identifier: Apache-2.0

package innodb

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Settings are the global variables of a server, by name.
type Settings map[string]string

// Needs says what the settings have to allow.
type Needs struct {
	Blocked     bool     // commits are blocked, and logs flushed, when the volumes are cut
	Still       bool     // InnoDB writes nothing while the volumes are cut
	AtomicPages bool     // the storage never shows half of a page
	Relaxed     bool     // the last commits may be missing
	Volumes     []string // clean and absolute
}

// Int returns a number; what is none is 0.
func (s Settings) Int(name string) int64 {
	n, _ := strconv.ParseInt(s[name], 10, 64)
	return n
}

// On says whether a switch is on.
func (s Settings) On(name string) bool { return s[name] == "ON" || s[name] == "1" }

// Unsafe returns what makes the settings unfit, one text for each reason.
func (s Settings) Unsafe(n Needs) []string {
	var reasons []string
	unsafe := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	if v := s.Int("innodb_force_recovery"); v > 0 {
		unsafe("innodb_force_recovery is %d: the server itself does not trust its files", v)
	}
	if s["innodb_flush_method"] == "nosync" {
		unsafe("innodb_flush_method is nosync: what is on disk is in no order, so that a cut does not recover")
	}
	if v := s["innodb_doublewrite"]; !n.Still && !n.AtomicPages && v != "ON" && v != "1" && v != "DETECT_AND_RECOVER" {
		unsafe("innodb_doublewrite is %.20s: a page that is half written in the cut is lost. Switch it on, or set Options.AtomicPageWrites if the storage writes %s bytes atomically", v, s["innodb_page_size"])
	}
	if v := s["innodb_data_file_path"]; !plain(v) {
		unsafe("innodb_data_file_path is %.200q: its files have to be named without a place", v)
	}
	if strings.Contains(s["innodb_data_file_path"], "raw") {
		unsafe("the system tablespace is on a raw device")
	}
	if n.Relaxed {
		return reasons
	}
	if v := s.Int("innodb_flush_log_at_trx_commit"); !n.Blocked && v != 1 {
		unsafe("innodb_flush_log_at_trx_commit is %d: commits are acknowledged before they are on disk. Set it to 1, or Options.Relaxed if the last ones may be missing", v)
	}
	if v := s.Int("sync_binlog"); s.On("log_bin") && v != 1 {
		unsafe("sync_binlog is %d: commits are acknowledged before they are in the binary log on disk, and a recovery rolls back what is not there. Set it to 1, or Options.Relaxed if the last ones may be missing", v)
	}
	return reasons
}

// CheckKept refuses settings in evidence that no recipe stores: they become
// options of a server, and one that names a library has it loaded.
func CheckKept(kept map[string]string, names []string) error {
	for name, value := range kept {
		if !slices.Contains(names, name) || !plain(value) {
			return fmt.Errorf("the evidence has a setting %.40q of %.80q", name, value)
		}
	}
	return nil
}

// plain says whether a value is made of names and numbers, without a place.
func plain(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.:;-", r)
	})
}

// dirSettings are the settings that place files outside of the data directory.
func dirSettings() []string {
	return []string{"innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "aria_log_dir_path"}
}

// LogBin is the setting whose value names the binary log, with its directory.
const LogBin = "log_bin"

// Dirs returns where the server has files outside of its data directory, by the
// setting that says so; that of the binary log is LogBin.
func (s Settings) Dirs() map[string]string {
	data := path.Clean(s["datadir"])
	var dirs map[string]string
	add := func(name, dir string) {
		if dir == "" {
			return
		}
		if !path.IsAbs(dir) {
			dir = path.Join(data, dir)
		}
		if dir = path.Clean(dir); Below(data, dir) {
			return
		}
		if dirs == nil {
			dirs = make(map[string]string)
		}
		dirs[name] = dir
	}
	for _, name := range dirSettings() {
		add(name, s[name])
	}
	if s.On("log_bin") {
		add(LogBin, path.Dir(s["log_bin_basename"]))
	}
	return dirs
}

// Known says whether a path is in the data directory or in one of Dirs.
func (s Settings) Known(place string) bool {
	place = path.Clean(place)
	known := Below(path.Clean(s["datadir"]), place)
	for _, dir := range s.Dirs() {
		known = known || Below(dir, place)
	}
	return known
}

// Below says whether a clean path is dir or in it.
func Below(dir, place string) bool {
	return place == dir || strings.HasPrefix(place, strings.TrimSuffix(dir, "/")+"/")
}

// Outside returns what is in no protected volume, one text for each. Without
// volumes everything has to be in the data directory.
func (s Settings) Outside(n Needs) []string {
	var reasons []string
	for name, dir := range s.Dirs() {
		if !n.covers(dir) {
			reasons = append(reasons, fmt.Sprintf("%s leads to %q, in no protected volume: protect it as well, and list it in Options.Volumes", name, dir))
		}
	}
	slices.Sort(reasons)
	if data := path.Clean(s["datadir"]); len(n.Volumes) > 0 && !n.covers(data) {
		reasons = append(reasons, fmt.Sprintf("the data directory %q is in no protected volume", data))
	}
	return reasons
}

func (n Needs) covers(place string) bool {
	return slices.ContainsFunc(n.Volumes, func(v string) bool { return Below(v, place) })
}

// CleanVolumes returns the paths clean, or an error if one is not absolute.
func CleanVolumes(volumes []string) ([]string, error) {
	var clean []string
	for _, v := range volumes {
		if !path.IsAbs(v) {
			return nil, fmt.Errorf("volume %q is not an absolute path", v)
		}
		clean = append(clean, path.Clean(v))
	}
	return clean, nil
}
