// SPDX-License-Identifier: Apache-2.0

package fsfreeze

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unfreezable are file systems whose freeze the kernel refuses or, for those
// of another machine, cannot mean anything.
var unfreezable = map[string]string{ //nolint:gochecknoglobals // a table that is only read
	"overlay":  "which has no storage of its own",
	"overlay2": "which has no storage of its own",
	"aufs":     "which has no storage of its own",
	"nfs":      "whose storage belongs to a server",
	"nfs4":     "whose storage belongs to a server",
	"cifs":     "whose storage belongs to a server",
	"smb3":     "whose storage belongs to a server",
	"ceph":     "whose storage belongs to a server",
	"9p":       "whose storage belongs to a server",
	"virtiofs": "whose storage belongs to the host",
	"fuse":     "whose storage belongs to a process",
	"fuseblk":  "whose storage belongs to a process",
	"tmpfs":    "which has no device",
	"ramfs":    "which has no device",
	"proc":     "which has no device",
	"sysfs":    "which has no device",
	"devtmpfs": "which has no device",
}

// mount is a line of /proc/self/mountinfo.
type mount struct {
	device string // of the superblock, also for btrfs, whose stat has others
	root   string // what the mount shows of the file system; "/" is all of it
	point  string
	kind   string
}

func mountOfPath(path string) (mount, error) {
	f, err := os.Open(path)
	if err != nil {
		return mount{}, fmt.Errorf("fsfreeze: %w", err)
	}
	defer f.Close()
	return mountOf(f)
}

// mountOf finds the mount that an open file lies on, by the id that the kernel
// gives for it: paths can be mounted over.
func mountOf(f *os.File) (mount, error) {
	id, err := mountID(f)
	if err != nil {
		return mount{}, fmt.Errorf("fsfreeze: find the mount of %q: %w", f.Name(), err)
	}
	info, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return mount{}, fmt.Errorf("fsfreeze: %w", err)
	}
	defer info.Close()
	lines := bufio.NewScanner(info)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if m, ok := parseMount(lines.Text(), id); ok {
			return m, nil
		}
	}
	return mount{}, fmt.Errorf("fsfreeze: mount of %q not found: %w", f.Name(), errors.Join(fs.ErrNotExist, lines.Err()))
}

func mountID(f *os.File) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", errors.New("the kernel gives no mount id")
}

// parseMount parses a line such as
//
//	36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/sda1 rw
//
// if it is the one of mount id.
func parseMount(line, id string) (mount, bool) {
	head, tail, ok := strings.Cut(line, " - ")
	// Other kinds of space stand in paths as they are.
	fields, types := strings.Split(head, " "), strings.Split(tail, " ")
	if !ok || len(fields) < 6 || len(types) < 1 || fields[0] != id {
		return mount{}, false
	}
	kind, _, _ := strings.Cut(types[0], ".") // fuse.sshfs
	return mount{device: fields[2], root: unescape(fields[3]), point: unescape(fields[4]), kind: kind}, true
}

// unescape undoes the octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mayFreeze checks for CAP_SYS_ADMIN, without which the window would open only
// to fail.
func mayFreeze() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("fsfreeze: read capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return fmt.Errorf("fsfreeze: CAP_SYS_ADMIN is required: %w", fs.ErrPermission)
	}
	return nil
}
