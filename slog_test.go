// SPDX-License-Identifier: Apache-2.0

package protect_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/stillpoint-go/protect"
)

// newLogger returns a logger and what it wrote so far, without times.
func newLogger(level slog.Level) (hclog.Logger, func() string) {
	var buf bytes.Buffer
	h := slog.NewTextHandler(&buf, &slog.HandlerOptions{
		Level:     level,
		AddSource: true,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.TimeKey:
				return slog.Attr{}
			case slog.SourceKey: // the file is enough to know that it is that of the caller
				s := a.Value.Any().(*slog.Source)
				return slog.String("in", s.File[strings.LastIndexByte(s.File, '/')+1:])
			}
			return a
		},
	})
	return protect.LoggerFromSlog(h), buf.String
}

func TestLoggerFromSlog(t *testing.T) {
	l, text := newLogger(slog.LevelDebug)
	l.Trace("too fine")
	l.Debug("plain", "k", 1)
	named := l.Named("repo").Named("retry").With("id", "x")
	named.Warn("again", "err", "boom", "odd")
	named.ResetNamed("other").Error("bad")
	l.Log(hclog.Info, "by level")
	l.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn}).Print("std")
	want := strings.Join([]string{
		`level=DEBUG in=slog_test.go msg=plain k=1`,
		`level=WARN in=slog_test.go msg=again logger=repo.retry id=x err=boom EXTRA_VALUE_AT_END=odd`,
		`level=ERROR in=slog_test.go msg=bad logger=other id=x`,
		`level=INFO in=slog_test.go msg="by level"`,
		`level=WARN in=log.go msg=std`,
		``,
	}, "\n")
	if diff := cmp.Diff(want, text()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if named.Name() != "repo.retry" || !cmp.Equal(named.ImpliedArgs(), []any{"id", "x"}) {
		t.Errorf("name %q, implied %v", named.Name(), named.ImpliedArgs())
	}
	if l.IsTrace() || !l.IsDebug() || !l.IsInfo() || !l.IsWarn() || !l.IsError() {
		t.Error("levels of the handler are not reported")
	}
	named.SetLevel(hclog.Error)
	if l.IsWarn() || l.GetLevel() != hclog.Error {
		t.Error("SetLevel does not filter")
	}
	l.SetLevel(hclog.Off)
	l.Error("silent")
	if strings.Contains(text(), "silent") {
		t.Error("hclog.Off logs")
	}
}
