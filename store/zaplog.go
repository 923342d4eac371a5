package store

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger hands etcd's warnings and errors to slog, each message once a minute at
// the most: some come a thousand times a second. A fatal one ends the process.
func zapLogger(log *slog.Logger) *zap.Logger {
	return zap.New(zapcore.NewSamplerWithOptions(slogCore{log: log}, time.Minute, 1, 0))
}

// slogCore writes zap's entries from warnings up to slog.
type slogCore struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (c slogCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (c slogCore) With(f []zapcore.Field) zapcore.Core {
	c.fields = append(c.fields[:len(c.fields):len(c.fields)], f...)
	return c
}

func (c slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !expected(e.Message) {
		return ce.AddCore(e, c)
	}
	return ce
}

// expected are the warnings of etcd that one with a unix socket always gives,
// and those that say what who asked is told as well.
func expected(msg string) bool {
	return strings.HasPrefix(msg, "Running http and grpc server on single port") ||
		strings.HasPrefix(msg, "scheme is http or unix while") ||
		strings.HasPrefix(msg, "rejecting member ") ||
		strings.HasPrefix(msg, "rejecting promote learner") ||
		strings.HasPrefix(msg, "failed to promote a member") ||
		strings.HasPrefix(msg, "Validation on configuration change failed") ||
		strings.HasPrefix(msg, "simple token is not cryptographically signed") ||
		strings.HasSuffix(msg, "there are still pending configuration changes to apply") // see campaign
}

// tooEarly is etcd's error when it looks at the version of a store so new that
// nothing was committed to it. It looks again.
const tooEarly = "missing term information"

func (c slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(enc)
	}
	if err, _ := enc.Fields["error"].(string); strings.Contains(err, tooEarly) {
		return nil
	}
	args := make([]any, 0, 2*len(enc.Fields))
	for k, v := range enc.Fields {
		args = append(args, k, v)
	}
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, "etcd: "+e.Message, args...)
	return nil
}

func (slogCore) Sync() error { return nil }
