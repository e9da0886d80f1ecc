package tenantdb

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"reflect"

	"github.com/tenantdb/tenantdb/hostdb"
)

// about is whom and what a refusal is about, as far as it was known, for the log.
type about struct {
	issuer, subject, userID string
	tenantID, tenantSlug    string
}

// explain gives an error its code, its reason and its tenant. What it returns is the caller's own.
func explain(err error, tenant string) *Error {
	var given *Error
	if errors.As(err, &given) {
		e := *given
		e.Reason = cmp.Or(e.Reason, reasonOf(err))
		return &e
	}
	return &Error{Code: refusalOf(err).code, Reason: reasonOf(err), TenantID: tenant, Err: err}
}

// reasonOf returns the reason that an error carries, else the one that its refusal stands for.
func reasonOf(err error) Reason {
	var r *reasoned
	if errors.As(err, &r) {
		return r.reason
	}
	switch f := refusalOf(err); f {
	case ErrNoCredential:
		return ReasonNoCredential
	case ErrInvalidCredential:
		return ReasonInvalidCredential
	default:
		return Reason(f.code)
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
	e := explain(classifyQuery(r.Context(), err), "")
	if logger := defaultLogger(nil); !e.handed {
		if level := e.level(r.Context()); logger.Enabled(r.Context(), level) {
			logger.LogAttrs(r.Context(), level, e.message(), e.line(r, nil)...)
		}
	}
	writeProblem(w, refusalOf(e))
}

// WriteError is the function [WriteError] for any request of the program, also one that didn't come through
// the middleware, such as one of Config.Skip: it uses this middleware's Config.
func (m *Middleware) WriteError(w http.ResponseWriter, r *http.Request, err error) {
	err = classifyQuery(r.Context(), err)
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
	if !e.handed {
		m.reporter.report(r, e, inner)
	}
	f := refusalOf(e)
	if e.handed || r.Context().Value(answeringKey{}) != nil { // ErrorHandler delegates
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
			writeProblem(w, refusalOf(e))
			return
		}
		defer m.answering.Delete(w)
	}
	e.handed = true
	m.errorHandler(w, r.WithContext(context.WithValue(r.Context(), answeringKey{}, true)), e)
}
