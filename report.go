package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// reporter writes the log's lines about refused and failed requests. Each reason and caller has a limited
// number of lines, so that nobody can fill the log.
type reporter struct {
	logger *slog.Logger

	mu      sync.Mutex // guards what follows; nothing is logged under it
	tallies map[reportKey]tally
	others  tally // of all for whom the table had no room
	swept   time.Time
}

// reportKey is a reason and a caller: a user, else an identity, else an address.
type reportKey struct {
	reason         Reason
	issuer, caller string
}

// tally counts the lines of a key.
type tally struct {
	since          time.Time
	lines, leftOut int
}

const (
	reportLines = 5 // of a key in reportEvery
	reportEvery = 10 * time.Second
	reportKeys  = 1024
	maxName     = 255  // bytes of a name in a line
	maxCause    = 1000 // bytes of a cause in a line
	maxStack    = 8 << 10
)

// report logs why a request was refused, or what failed.
func (p *reporter) report(r *http.Request, e *Error, inner http.Handler) {
	level := e.level(r.Context())
	if !p.logger.Enabled(r.Context(), level) {
		return
	}
	leftOut, ok := p.allow(e.key(r), time.Now())
	if !ok {
		return
	}
	line := e.line(r, inner)
	if leftOut > 0 {
		line = append(line, slog.Int("left_out", leftOut))
	}
	p.logger.LogAttrs(r.Context(), level, e.message(), line...)
}

// panicked logs a panic of a function of the program's own, with its stack.
func (p *reporter) panicked(message string, id *Identity, value any, stack []byte) {
	defer func() { _ = recover() }() // the program's logger may panic, too
	leftOut, ok := p.allow(reportKey{Reason(message), clip(id.Issuer, maxName), clip(id.Subject, maxName)}, time.Now())
	if !ok {
		return
	}
	p.logger.LogAttrs(context.Background(), slog.LevelError, message, slog.String("panic", printable(fmt.Sprint(value), maxCause)),
		slog.String("issuer", printable(id.Issuer, maxName)), slog.String("subject", printable(id.Subject, maxName)),
		slog.Int("left_out", leftOut), slog.String("stack", string(stack[:min(len(stack), maxStack)])))
}

// allow reports whether a key may have one more line, and how many it went without since its last.
func (p *reporter) allow(key reportKey, now time.Time) (leftOut int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, known := p.tallies[key]
	if !known && len(p.tallies) >= reportKeys && !p.sweep(now) {
		ok = p.others.allow(now, &leftOut)
		return leftOut, ok
	}
	if !known {
		key = reportKey{key.reason, strings.Clone(key.issuer), strings.Clone(key.caller)} // they may be parts of a header
	}
	ok = t.allow(now, &leftOut)
	if p.tallies == nil {
		p.tallies = make(map[reportKey]tally)
	}
	p.tallies[key] = t
	return leftOut, ok
}

// sweep makes room in the table, at most once in reportEvery, and reports whether there is some. The caller
// holds p.mu.
func (p *reporter) sweep(now time.Time) bool {
	if now.Sub(p.swept) < reportEvery {
		return false
	}
	p.swept = now
	for key, t := range p.tallies {
		if now.Sub(t.since) >= reportEvery {
			p.others.leftOut += t.leftOut
			delete(p.tallies, key)
		}
	}
	return len(p.tallies) < reportKeys
}

// allow counts a line.
func (t *tally) allow(now time.Time, leftOut *int) bool {
	if now.Sub(t.since) >= reportEvery {
		t.since, t.lines = now, 0
	}
	if t.lines == reportLines {
		t.leftOut++
		return false
	}
	t.lines++
	*leftOut, t.leftOut = t.leftOut, 0
	return true
}

// key is what the error's line is limited by.
func (e *Error) key(r *http.Request) reportKey {
	switch {
	case e.about.userID != "":
		return reportKey{e.Reason, "", e.about.userID}
	case e.about.subject != "":
		return reportKey{e.Reason, clip(e.about.issuer, maxName), clip(e.about.subject, maxName)}
	}
	address, _, _ := net.SplitHostPort(r.RemoteAddr)
	return reportKey{e.Reason, "", address}
}

// level is the level of the error's line: a client that has gone misses nothing.
func (e *Error) level(ctx context.Context) slog.Level {
	switch {
	case StatusCode(e) < http.StatusInternalServerError:
		return slog.LevelInfo
	case ctx.Err() != nil && errors.Is(e, context.Canceled):
		return slog.LevelDebug
	}
	return slog.LevelError
}

// message is the line's text.
func (e *Error) message() string {
	if StatusCode(e) < http.StatusInternalServerError {
		return "request refused"
	}
	return "request failed"
}

// line is what the log says: what happened, to which request, of whom. The path isn't logged, since it may
// hold what is nobody's business; the route's pattern is, where a router has matched or inner is one that
// tells.
func (e *Error) line(r *http.Request, inner http.Handler) []slog.Attr {
	route := r.Pattern
	if mux, ok := inner.(interface {
		Handler(*http.Request) (http.Handler, string)
	}); ok && route == "" {
		_, route = mux.Handler(r)
	}
	line := append(make([]slog.Attr, 0, 12), slog.String("code", e.Code), slog.Int("status", StatusCode(e)))
	line = append(line, e.attrs(slog.String("method", printable(r.Method, maxName)), slog.String("route", printable(route, maxName)),
		slog.String("host", printable(r.Host, maxName)))...)
	return line
}

// attrs is what the log says of the error, with what is given between the cause and the tenant. What isn't
// known is left out.
func (e *Error) attrs(request ...slog.Attr) []slog.Attr {
	all := append([]slog.Attr{slog.String("reason", string(e.Reason)), slog.String("cause", printable(e.cause(), maxCause))}, request...)
	a := &e.about
	all = append(all, slog.String("tenant_id", a.tenantID), slog.String("tenant_slug", a.tenantSlug))
	if a.userID != "" {
		all = append(all, slog.String("user_id", a.userID))
	} else {
		all = append(all, slog.String("issuer", printable(a.issuer, maxName)), slog.String("subject", printable(a.subject, maxName)))
	}
	known := all[:0]
	for _, attr := range all {
		if attr.Value.String() != "" {
			known = append(known, attr)
		}
	}
	return known
}

// LogValue implements slog.LogValuer: the code, the reason, the cause, and whom they are about.
func (e *Error) LogValue() slog.Value {
	return slog.GroupValue(append([]slog.Attr{slog.String("code", e.Code)}, e.attrs()...)...)
}

// defaultLogger returns the logger that was configured, else slog's.
func defaultLogger(configured *slog.Logger) *slog.Logger {
	if configured != nil {
		return configured
	}
	return slog.Default()
}
