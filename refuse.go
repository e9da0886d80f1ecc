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
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/printable"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// explain returns the error as an *Error with its code, reason and tenant. The caller may change it.
func explain(err error, tenant string) *Error {
	var given *Error
	if errors.As(err, &given) {
		e := *given
		e.Reason = cmp.Or(e.Reason, reasonOf(err))
		return &e
	}
	return &Error{Code: refusal.Of(err).Code, Reason: reasonOf(err), TenantID: tenant, Err: err}
}

// reasonOf returns the reason that an error wraps, else the one of its refusal.
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

// of adds whom and what the error is about: the caller, the tenant as named, and the facts. Each may be
// missing.
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

// explain returns the error as an *Error, with what the scope knows.
func (c *scopeContext) explain(err error) *Error {
	return explain(err, c.tenantID()).of(c.identity, hostdb.TenantKey{}, c.access)
}

// WriteError answers a request with an error, such as one that a handler's query returned. It writes what the
// middleware itself would write: the error's status, a problem+json body, and Retry-After if another attempt
// may succeed. An error that isn't this package's is answered with 500. The error is logged, and its text
// isn't sent to the client.
//
// WriteError uses the [Config.ErrorHandler], [Config.Redirects] and [Config.Logger] of the middleware that
// the request came through. Without one it logs to [slog.Default], without limiting
// the lines; use [Middleware.WriteError] there.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	if c, ok := scopeOf(r.Context()); ok {
		c.m.WriteError(w, r, err)
		return
	}
	e := explain(refusal.OfQuery(r.Context(), err), "")
	if !e.handled {
		slog.LogAttrs(r.Context(), e.level(r.Context()), e.message(), e.attrsOf(r, nil)...)
	}
	writeProblem(w, refusal.Of(e))
}

// WriteError is the function [WriteError] with this middleware's [Config]. It also serves requests that
// didn't come through the middleware, such as those of [Config.Skip].
func (m *Middleware) WriteError(w http.ResponseWriter, r *http.Request, err error) {
	err = refusal.OfQuery(r.Context(), err)
	var e *Error
	if c, ok := scopeOf(r.Context()); ok {
		e = c.explain(err)
	} else {
		e = explain(err, "")
	}
	if !e.handled { // else it is the middleware's own refusal, or was reported before
		m.watch.refused(r.Context(), e)
	}
	m.refuse(w, r, e, nil)
}

// answeringKey marks the context of a request that [Config.ErrorHandler] is answering.
type answeringKey struct{}

// refuse answers a request with an error. inner is the guarded handler if the request didn't reach it, else
// nil.
func (m *Middleware) refuse(w http.ResponseWriter, r *http.Request, e *Error, inner http.Handler) {
	if !e.handled {
		m.reporter.report(r, e, inner)
	}
	f := refusal.Of(e)
	switch {
	case e.handled, r.Context().Value(answeringKey{}) != nil: // an ErrorHandler wants the default response
		writeProblem(w, f)
	case m.redirects.redirect(w, r, f):
	case m.errorHandler != nil:
		m.handle(w, r, e)
	default:
		writeProblem(w, f)
	}
}

// handle calls the ErrorHandler. If that is already answering by w, it has called WriteError with another
// request and error, and gets the default response.
func (m *Middleware) handle(w http.ResponseWriter, r *http.Request, e *Error) {
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

// reporter logs refused and failed requests. The lines for each reason and caller are limited, so that nobody
// can fill the log.
type reporter struct {
	logger *slog.Logger

	mu      sync.Mutex // guards what follows; nothing is logged under it
	tallies map[reportKey]tally
	others  tally // of all keys for which tallies had no room
	swept   time.Time
}

// reportKey is a reason and a caller. The caller is a user, else an identity, else an address.
type reportKey struct {
	reason         Reason
	issuer, caller string
}

// identityKey returns the key of a reason and an identity.
func identityKey(reason Reason, issuer, subject string) reportKey {
	return reportKey{reason, printable.Clip(issuer, maxName), printable.Clip(subject, maxName)}
}

// tally counts the lines for a key.
type tally struct {
	since          time.Time
	lines, leftOut int
}

const (
	reportLines = 5 // for each key, in reportEvery
	reportEvery = 10 * time.Second
	reportKeys  = 1024
	maxName     = 255  // bytes of a name in a line
	maxCause    = 1000 // bytes of a cause in a line
	maxStack    = 8 << 10
)

// report logs a refused or failed request.
func (p *reporter) report(r *http.Request, e *Error, inner http.Handler) {
	level := e.level(r.Context())
	if !p.logger.Enabled(r.Context(), level) {
		return
	}
	leftOut, ok := p.allow(e.key(r), time.Now())
	if !ok {
		return
	}
	attrs := e.attrsOf(r, inner)
	if leftOut > 0 {
		attrs = append(attrs, slog.Int("left_out", leftOut))
	}
	p.logger.LogAttrs(r.Context(), level, e.message(), attrs...)
}

// panicked logs a panic of one of the program's functions, with its stack.
func (p *reporter) panicked(message string, id *Identity, value any, stack []byte) {
	defer func() { _ = recover() }() // the program's logger may panic too
	leftOut, ok := p.allow(identityKey(Reason(message), id.Issuer, id.Subject), time.Now())
	if !ok {
		return
	}
	p.logger.LogAttrs(context.Background(), slog.LevelError, message,
		text("panic", fmt.Sprint(value), maxCause), text("issuer", id.Issuer, maxName),
		text("subject", id.Subject, maxName), slog.Int("left_out", leftOut),
		slog.String("stack", string(stack[:min(len(stack), maxStack)])))
}

// text returns an attribute whose value comes from outside. At most max bytes are logged.
func text(key, value string, max int) slog.Attr { return slog.String(key, printable.Text(value, max)) }

// allow reports whether a line may be logged for a key, and how many were left out since the last one.
func (p *reporter) allow(key reportKey, now time.Time) (leftOut int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, known := p.tallies[key]
	if !known && len(p.tallies) >= reportKeys && !p.sweep(now) {
		ok = p.others.allow(now, &leftOut)
		return leftOut, ok
	}
	if !known {
		// The names may be parts of a request's header, which the table must not keep in memory.
		key = reportKey{key.reason, strings.Clone(key.issuer), strings.Clone(key.caller)}
	}
	ok = t.allow(now, &leftOut)
	if p.tallies == nil {
		p.tallies = make(map[reportKey]tally)
	}
	p.tallies[key] = t
	return leftOut, ok
}

// sweep removes old keys, at most once in reportEvery. It reports whether there is room for another. The
// caller holds p.mu.
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

// allow reports whether one more line may be logged, and counts it. leftOut is set to how many were left out.
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

// key returns the key that limits the error's lines.
func (e *Error) key(r *http.Request) reportKey {
	switch {
	case e.about.userID != "":
		return reportKey{e.Reason, "", e.about.userID}
	case e.about.subject != "":
		return identityKey(e.Reason, e.about.issuer, e.about.subject)
	}
	address, _, _ := net.SplitHostPort(r.RemoteAddr)
	return reportKey{e.Reason, "", address}
}

// level returns the level of the error's line.
func (e *Error) level(ctx context.Context) slog.Level {
	switch {
	case StatusCode(e) < http.StatusInternalServerError:
		return slog.LevelInfo
	case ctx.Err() != nil && errors.Is(e, context.Canceled): // the client has gone
		return slog.LevelDebug
	}
	return slog.LevelError
}

// message returns the text of the error's line.
func (e *Error) message() string {
	if StatusCode(e) < http.StatusInternalServerError {
		return "request refused"
	}
	return "request failed"
}

// attrsOf returns the attributes of the error's line about a request. The path isn't among them, since it may
// hold personal data. The route is the pattern of the router that has matched, or of inner if that is a mux.
func (e *Error) attrsOf(r *http.Request, inner http.Handler) []slog.Attr {
	route := r.Pattern
	if mux, ok := inner.(interface {
		Handler(*http.Request) (http.Handler, string)
	}); ok && route == "" {
		_, route = mux.Handler(r)
	}
	attrs := e.attrs(text("method", r.Method, maxName), text("route", route, maxName),
		text("host", r.Host, maxName))
	return append([]slog.Attr{slog.String("code", e.Code), slog.Int("status", StatusCode(e))}, attrs...)
}

// attrs returns the attributes that aren't empty: reason and cause, those of the request, and what the error
// is about.
func (e *Error) attrs(request ...slog.Attr) []slog.Attr {
	all := []slog.Attr{slog.String("reason", string(e.Reason)), text("cause", e.cause(), maxCause)}
	all = append(all, request...)
	a := &e.about
	all = append(all, slog.String("tenant_id", a.tenantID), slog.String("tenant_slug", a.tenantSlug))
	if a.userID != "" {
		all = append(all, slog.String("user_id", a.userID))
	} else {
		all = append(all, text("issuer", a.issuer, maxName), text("subject", a.subject, maxName))
	}
	return slices.DeleteFunc(all, func(a slog.Attr) bool { return a.Value.String() == "" })
}

// LogValue implements [slog.LogValuer] with the error's code, reason and cause, and whom it is about.
func (e *Error) LogValue() slog.Value {
	return slog.GroupValue(append([]slog.Attr{slog.String("code", e.Code)}, e.attrs()...)...)
}
