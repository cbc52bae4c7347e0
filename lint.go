// SPDX-License-Identifier: Apache-2.0

package protect

import (
	"path/filepath"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/hooks/lint"
)

// Lint looks for mistakes in how the application is to be frozen and cut, before
// it is: see package lint for what, and for what that is worth. It runs nothing
// and touches no target. A volume whose ID is an absolute path is taken for a
// directory of this machine.
func (p *Protector) Lint(app Application) []lint.Finding {
	a := &lint.Application{
		Window: app.Window,
		Cut:    lint.Cut{Inside: p.cfg.Snapshots.Inside(), Groups: p.cfg.Snapshots.Groups(), PointInTime: p.cfg.Snapshots.PointInTime()},
	}
	if j, ok := p.cfg.Journal.(*hooks.DirJournal); ok {
		a.Journal = j.Dir()
	}
	for _, m := range app.Members {
		a.Members = append(a.Members, lint.Member{
			Member:  hooks.Member{Name: m.Name, Quiescer: m.Quiescer, DependsOn: m.DependsOn},
			Volumes: m.Volumes,
		})
	}
	for _, v := range app.Volumes {
		vol := lint.Volume{Name: v.Name, AfterThaw: v.AfterThaw}
		if path := string(v.ID); filepath.IsAbs(path) {
			vol.Path = path
		}
		a.Volumes = append(a.Volumes, vol)
	}
	return lint.Check(a)
}
