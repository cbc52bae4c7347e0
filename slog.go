// SPDX-License-Identifier: Apache-2.0

package protect

import (
	"context"
	"io"
	"log"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// slogTrace is the slog level of hclog.Trace.
const slogTrace = slog.LevelDebug - 4

// LoggerFromSlog returns a logger that passes everything on to the handler,
// for programs that log with log/slog, or with logr through
// logr.ToSlogHandler. Names become the attribute "logger".
func LoggerFromSlog(h slog.Handler) hclog.Logger {
	l := &slogLogger{handler: h, level: new(atomic.Int32)}
	l.SetLevel(hclog.Trace) // the handler decides
	return l
}

// slogLogger implements hclog.Logger.
type slogLogger struct {
	handler slog.Handler
	name    string
	implied []any
	level   *atomic.Int32 // shared by all loggers made from one
}

func toSlog(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return slogTrace
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

func (l *slogLogger) enabled(level hclog.Level) bool {
	return level != hclog.Off && level >= l.GetLevel() && l.handler.Enabled(context.Background(), toSlog(level)) //nolint:forbidigo // hclog has no contexts
}

// log is called by the methods below, so that the caller is two frames up.
func (l *slogLogger) log(level hclog.Level, msg string, args []any) {
	if !l.enabled(level) {
		return
	}
	var pcs [1]uintptr
	runtime.Callers(3, pcs[:])
	r := slog.NewRecord(time.Now(), toSlog(level), msg, pcs[0])
	if l.name != "" {
		r.AddAttrs(slog.String("logger", l.name))
	}
	r.Add(pairs(l.implied)...)
	r.Add(pairs(args)...)
	_ = l.handler.Handle(context.Background(), r) //nolint:forbidigo // hclog has no contexts, and nobody to tell
}

// pairs gives a value without a key the key that hclog uses.
func pairs(args []any) []any {
	if len(args)%2 == 0 {
		return args
	}
	n := len(args) - 1
	return append(args[:n:n], hclog.MissingKey, args[n])
}

func (l *slogLogger) Log(level hclog.Level, msg string, args ...any) { l.log(level, msg, args) }
func (l *slogLogger) Trace(msg string, args ...any)                  { l.log(hclog.Trace, msg, args) }

func (l *slogLogger) Debug(msg string, args ...any) { l.log(hclog.Debug, msg, args) }

func (l *slogLogger) Info(msg string, args ...any) { l.log(hclog.Info, msg, args) }

func (l *slogLogger) Warn(msg string, args ...any) { l.log(hclog.Warn, msg, args) }

func (l *slogLogger) Error(msg string, args ...any) { l.log(hclog.Error, msg, args) }

func (l *slogLogger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *slogLogger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *slogLogger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *slogLogger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *slogLogger) IsError() bool { return l.enabled(hclog.Error) }

func (l *slogLogger) ImpliedArgs() []any { return l.implied }
func (l *slogLogger) Name() string       { return l.name }

func (l *slogLogger) With(args ...any) hclog.Logger {
	c := *l
	c.implied = append(slices.Clip(l.implied), pairs(args)...)
	return &c
}

func (l *slogLogger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

func (l *slogLogger) ResetNamed(name string) hclog.Logger {
	c := *l
	c.name = name
	return &c
}

// SetLevel filters in addition to the handler.
func (l *slogLogger) SetLevel(level hclog.Level) { l.level.Store(int32(level)) }

func (l *slogLogger) GetLevel() hclog.Level { return hclog.Level(l.level.Load()) }

func (l *slogLogger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

func (l *slogLogger) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	level := hclog.Info
	if opts != nil && opts.ForceLevel != hclog.NoLevel {
		level = opts.ForceLevel
	}
	return lineWriter{l, level}
}

// lineWriter logs what is written to it, one record a call.
type lineWriter struct {
	l     *slogLogger
	level hclog.Level
}

func (w lineWriter) Write(p []byte) (int, error) {
	w.l.log(w.level, strings.TrimRight(string(p), "\n"), nil)
	return len(p), nil
}
