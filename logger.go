package riffle

import (
	"context"
	"log/slog"
)

// hostHandler is the handler of the caller's logger, called on a goroutine of its own: what we
// log we say in the midst of our work, which must not end where the handler panics, or ends its
// goroutine, as a test's FailNow does.
type hostHandler struct{ host slog.Handler }

// Enabled implements slog.Handler. It is the caller's code too: Handle asks.
func (hostHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler. It returns when the caller's has.
func (h hostHandler) Handle(ctx context.Context, r slog.Record) error {
	apart(func() {
		defer func() { _ = recover() }() // there is nobody left to tell
		if h.host.Enabled(ctx, r.Level) {
			_ = h.host.Handle(ctx, r)
		}
	})
	return nil
}

// WithAttrs implements slog.Handler.
func (h hostHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return hostHandler{h.host.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h hostHandler) WithGroup(name string) slog.Handler { return hostHandler{h.host.WithGroup(name)} }
