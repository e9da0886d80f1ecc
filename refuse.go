package tenantdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/printable"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// explain gives an error its code, its reason and its tenant. What it returns is the caller's own.
func explain(err error, tenant string) *Error {
	var given *Error
	if errors.As(err, &given) {
		e := *given
		e.Reason = cmp.Or(e.Reason, reasonOf(err))
		return &e
	}
	return &Error{Code: refusal.Of(err).Code, Reason: reasonOf(err), TenantID: tenant, Err: err}
}

// reasonOf returns the reason that an error carries, else the one that its refusal stands for.
func reasonOf(err error) Reason {
	var r *reasoned
	if errors.As(err, &r) {
		return r.reason
	}
	switch f := refusal.Of(err); f {
	case ErrNoCredential:
		return ReasonNoCredential
	case ErrInvalidCredential:
		return ReasonInvalidCredential
	default:
		return Reason(f.Code)
	}
}

// of adds who asked for which tenant, and what was found out about them. Each may be absent.
func (e *Error) of(id *Identity, tenant hostdb.TenantKey, found *hostdb.Access) *Error {
	a := about{tenantID: tenant.ID, tenantSlug: tenant.Slug}
	if id != nil {
		a.issuer, a.subject = id.Issuer, id.Subject
	}
	if found != nil && found.User != nil {
		a.userID = found.User.ID
	}
	if found != nil && found.Tenant != nil {
		a.tenantID, a.tenantSlug = found.Tenant.ID, found.Tenant.Slug
	}
	e.about = a
	return e
}

// explain gives an error what is known of the scope.
func (c *scopeContext) explain(err error) *Error {
	return explain(err, c.tenantID()).of(c.identity, hostdb.TenantKey{}, c.access)
}

// WriteError answers a request with an error that a handler's query returned, or any other error of this
// package, in the form that the middleware itself uses: its status, a problem+json body, Retry-After where it
// helps. The cause goes to the log and never reaches the client; an error that is none of this package's is
// answered with 500. It respects Config.ErrorHandler and Config.Redirects of the middleware that the request
// came through. Outside any it logs to slog.Default, without a limit of the rate; there prefer
// [Middleware.WriteError].
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	if c, ok := scopeOf(r.Context()); ok {
		c.m.WriteError(w, r, err)
		return
	}
	e := explain(refusal.OfQuery(r.Context(), err), "")
	if logger := defaultLogger(nil); !e.handled {
		if level := e.level(r.Context()); logger.Enabled(r.Context(), level) {
			logger.LogAttrs(r.Context(), level, e.message(), e.line(r, nil)...)
		}
	}
	writeProblem(w, refusal.Of(e))
}

// WriteError is the function [WriteError] for any request of the program, also one that didn't come through
// the middleware, such as one of Config.Skip: it uses this middleware's Config.
func (m *Middleware) WriteError(w http.ResponseWriter, r *http.Request, err error) {
	err = refusal.OfQuery(r.Context(), err)
	if c, ok := scopeOf(r.Context()); ok {
		m.refuse(w, r, c.explain(err), nil)
		return
	}
	m.refuse(w, r, explain(err, ""), nil)
}

// answeringKey marks the context of a request that Config.ErrorHandler is answering.
type answeringKey struct{}

// refuse answers a request that isn't let in, or whose handler failed. inner is the guarded handler, where
// the request didn't reach it.
func (m *Middleware) refuse(w http.ResponseWriter, r *http.Request, e *Error, inner http.Handler) {
	if !e.handled {
		m.reporter.report(r, e, inner)
	}
	f := refusal.Of(e)
	if e.handled || r.Context().Value(answeringKey{}) != nil { // ErrorHandler delegates
		writeProblem(w, f)
		return
	}
	switch {
	case m.redirects.redirect(w, r, f):
	case m.errorHandler != nil:
		m.hand(w, r, e)
	default:
		writeProblem(w, f)
	}
}

// hand has ErrorHandler answer, unless it is already writing to w: then it delegates by a request and an
// error of its own.
func (m *Middleware) hand(w http.ResponseWriter, r *http.Request, e *Error) {
	if reflect.ValueOf(w).Comparable() {
		if _, busy := m.answering.LoadOrStore(w, nil); busy {
			writeProblem(w, refusal.Of(e))
			return
		}
		defer m.answering.Delete(w)
	}
	e.handled = true
	m.errorHandler(w, r.WithContext(context.WithValue(r.Context(), answeringKey{}, true)), e)
}

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
	leftOut, ok := p.allow(reportKey{Reason(message), printable.Clip(id.Issuer, maxName), printable.Clip(id.Subject, maxName)}, time.Now())
	if !ok {
		return
	}
	p.logger.LogAttrs(context.Background(), slog.LevelError, message, slog.String("panic", printable.Text(fmt.Sprint(value), maxCause)),
		slog.String("issuer", printable.Text(id.Issuer, maxName)), slog.String("subject", printable.Text(id.Subject, maxName)),
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
		return reportKey{e.Reason, printable.Clip(e.about.issuer, maxName), printable.Clip(e.about.subject, maxName)}
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
	line = append(line, e.attrs(slog.String("method", printable.Text(r.Method, maxName)), slog.String("route", printable.Text(route, maxName)),
		slog.String("host", printable.Text(r.Host, maxName)))...)
	return line
}

// attrs is what the log says of the error, with what is given between the cause and the tenant. What isn't
// known is left out.
func (e *Error) attrs(request ...slog.Attr) []slog.Attr {
	all := append([]slog.Attr{slog.String("reason", string(e.Reason)), slog.String("cause", printable.Text(e.cause(), maxCause))}, request...)
	a := &e.about
	all = append(all, slog.String("tenant_id", a.tenantID), slog.String("tenant_slug", a.tenantSlug))
	if a.userID != "" {
		all = append(all, slog.String("user_id", a.userID))
	} else {
		all = append(all, slog.String("issuer", printable.Text(a.issuer, maxName)), slog.String("subject", printable.Text(a.subject, maxName)))
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
