// SPDX-License-Identifier: Apache-2.0

package fsfreeze

import (
	"fmt"
	"strings"
	"testing"
)

// FuzzParseMount reads lines as the kernel prints them, of mounts at an absolute
// path of anybody's choice.
func FuzzParseMount(f *testing.F) {
	f.Add("/mnt", "ext4", "")
	f.Add("/mnt with space\t\n\\040", "fuse.sshfs", "master:1 propagate_from:2")
	f.Add("/é\xff", "xfs", "shared:9")
	kernel := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)
	f.Add("/no-break\u00a0space\r", "btrfs", "")
	f.Fuzz(func(t *testing.T, point, kind, optional string) {
		point = "/" + point
		if strings.Contains(" "+optional+" ", " - ") {
			return // not in this form
		}
		if optional != "" {
			optional += " "
		}
		line := fmt.Sprintf("36 35 98:0 /a\\040root %s rw,noatime %s- %s /dev/sda1 rw", kernel.Replace(point), optional, kernel.Replace(kind))
		_, _ = parseMount(line+point, point) // whatever it is
		if _, ok := parseMount(line, "37"); ok {
			t.Fatalf("%q is of another mount", line)
		}
		want, _, _ := strings.Cut(kernel.Replace(kind), ".")
		if m, ok := parseMount(line, "36"); !ok || m != (mount{device: "98:0", root: "/a root", point: point, kind: want}) {
			t.Fatalf("%q is %+v, %t", line, m, ok)
		}
	})
}
