package tenantdb

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Redirects says where a browser goes instead of seeing an error: requests that accept text/html get 303, those of HTMX 200 with
// HX-Redirect. Both are paths on this site, such as "/login"; "" keeps the error response.
type Redirects struct {
	// Login is for a missing or bad credential. It must be reachable without one.
	Login string
	// Billing is for ErrSubscriptionInactive. Serve it behind HandlerWith(Rules{AllowInactive: true}, …).
	Billing string
}

// problem is the response's body (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

// WriteProblem answers a request as the middleware does without Config.ErrorHandler: with the error's status and a problem+json body.
// It is for an ErrorHandler that only adds to the default, or takes over some errors. It logs nothing, and can be Config.ErrorHandler
// itself.
func WriteProblem(w http.ResponseWriter, _ *http.Request, err error) {
	writeProblem(w, refusalOf(classifyQuery(err)))
}

// writeProblem writes the default response.
func writeProblem(w http.ResponseWriter, f *refusal) {
	body, _ := json.Marshal(problem{"about:blank", http.StatusText(f.status), f.status, f.text, f.code})
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	switch f {
	case ErrNoCredential:
		h.Set("WWW-Authenticate", "Bearer")
	case ErrInvalidCredential:
		h.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	if f.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "2")
	}
	w.WriteHeader(f.status)
	_, _ = w.Write(body)
}

// redirect answers a browser or HTMX with the page that mends the error; false where there is none.
func (d *Redirects) redirect(w http.ResponseWriter, r *http.Request, f *refusal) bool {
	to := ""
	switch f {
	case ErrNoCredential, ErrInvalidCredential:
		to = d.Login
	case ErrSubscriptionInactive:
		to = d.Billing
	}
	htmx := r.Header.Get("HX-Request") == "true"
	if to == "" || !htmx && !acceptsHTML(r) {
		return false
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Add("Vary", "Accept, HX-Request")
	if htmx {
		w.Header().Set("HX-Redirect", to)
		w.WriteHeader(http.StatusOK)
		return true
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
	return true
}

// maxAccept bounds what is read of Accept, in bytes. Browsers send about 150.
const maxAccept = 2 << 10

// acceptsHTML reports whether a request names text/html among what it accepts, as browsers do and programs don't. A header that
// is longer than any browser's counts as a program's.
func acceptsHTML(r *http.Request) bool {
	headers := r.Header["Accept"]
	if len(headers) > 4 {
		return false
	}
	for _, header := range headers {
		if len(header) > maxAccept {
			return false
		}
		for part := range strings.SplitSeq(header, ",") {
			kind, params, err := mime.ParseMediaType(part)
			if err == nil && kind == "text/html" && strings.Trim(params["q"], "0.") == "" && params["q"] != "" {
				continue // q=0: not acceptable
			}
			if err == nil && kind == "text/html" {
				return true
			}
		}
	}
	return false
}

// validate refuses targets that could lead off this site.
func (d *Redirects) validate() error {
	for field, target := range map[string]string{"Login": d.Login, "Billing": d.Billing} {
		if target != "" && !localTarget(target) {
			return fmt.Errorf("Redirects.%s: give a path on this site that begins with a single /, such as /login", field)
		}
	}
	return nil
}

// localTarget reports whether a browser stays on this site when sent there, however it reads odd characters.
func localTarget(target string) bool {
	if strings.Contains(target, "//") || strings.Contains(target, ":") { // in a query too: what is sent on may be followed
		return false
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == '\\' || c >= 0x7f {
			return false
		}
	}
	u, err := url.Parse(target)
	return err == nil && u.Scheme == "" && u.Host == "" && u.User == nil && cleanPath(u.EscapedPath()) && cleanPath(u.Path)
}
