// SPDX-License-Identifier: Apache-2.0

package fsfreeze

import (
	"fmt"
	"strings"
	"testing"
)

// FuzzParseMount reads lines as the kernel prints them, of mounts at a path of
// anybody's choice.
func FuzzParseMount(f *testing.F) {
	f.Add("/mnt", "ext4", "")
	f.Add("/mnt with space\t\n\\040", "fuse.sshfs", "master:1 propagate_from:2")
	f.Add("/é\xff", "xfs", "shared:9")
	kernel := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)
	f.Fuzz(func(t *testing.T, point, kind, optional string) {
		if strings.ContainsRune(optional, '\n') || strings.Contains(" "+optional+" ", " - ") {
			return // not in this form
		}
		line := fmt.Sprintf("36 35 98:0 /root %s rw,noatime %s - %s /dev/sda1 rw", kernel.Replace(point), optional, kernel.Replace(kind))
		_, _ = parseMount(line+point, point) // whatever it is
		fields := len(strings.Fields(kernel.Replace(point))) == 1 && len(strings.Fields(kernel.Replace(kind))) == 1
		if _, ok := parseMount(line, "37"); ok {
			t.Fatalf("%q is of another mount", line)
		}
		m, ok := parseMount(line, "36")
		if fields && (!ok || m.point != point || m.device != "98:0") {
			t.Fatalf("%q is %+v, %t", line, m, ok)
		}
	})
}
