package tenantdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tenantdb/tenantdb/internal/refusal"
)

// Redirects says where a browser goes instead of showing an error. Requests that accept text/html get 303.
// HTMX requests get 200 with HX-Redirect. Login and Billing are paths, such as "/login". If one is empty, the
// error response is sent.
type Redirects struct {
	// Login is for a missing or bad credential. It must be reachable without one.
	Login string
	// Billing is for [ErrSubscriptionInactive]. Serve it behind HandlerWith(Rules{AllowInactive: true}, …).
	Billing string
	// Origin is the origin of both pages, such as "https://accounts.example.com" for one login page of all
	// subdomains. It must be https, except for localhost and its subdomains. The default is the request's
	// host.
	Origin string
	// ReturnTo names the query parameter that tells the login page what a GET request asked for: a path, or
	// with Origin a whole URL. Anybody can make a link to the login page, so it must check the host before it
	// redirects there. The default is none.
	ReturnTo string
}

// problem is the body of a response (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

// WriteProblem writes the response of a middleware without [Config.ErrorHandler]: the error's status and a
// problem+json body. It logs nothing. Use it in an ErrorHandler that adds to the default or handles only some
// errors, or as the ErrorHandler.
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) {
	writeProblem(w, refusal.Of(refusal.OfQuery(r.Context(), err)))
}

// writeProblem writes the response for a refusal.
func writeProblem(w http.ResponseWriter, f *refusal.Refusal) {
	h := w.Header()
	switch f {
	case ErrNoCredential:
		h.Set("WWW-Authenticate", "Bearer")
	case ErrInvalidCredential:
		h.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	if f.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "2")
	}
	writeJSON(w, f.Status, "application/problem+json",
		problem{"about:blank", http.StatusText(f.Status), f.Status, f.Text, f.Code})
}

// writeJSON writes a response that no cache may keep. The body can always be encoded.
func writeJSON(w http.ResponseWriter, status int, contentType string, body any) {
	text, _ := json.Marshal(body)
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// redirect sends a browser or HTMX to the page for a refusal. It reports false if there is none.
func (d *Redirects) redirect(w http.ResponseWriter, r *http.Request, f *refusal.Refusal) bool {
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
	if to == d.Login {
		to += d.returnTo(r, htmx)
	}
	to = d.Origin + to
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

// maxReturn bounds the value of [Redirects.ReturnTo], in bytes.
const maxReturn = 1 << 10

// returnTo returns the query that tells the login page where to go afterwards. It is "" if there is nothing
// to tell.
func (d *Redirects) returnTo(r *http.Request, htmx bool) string {
	path := r.URL.EscapedPath()
	if d.ReturnTo == "" || htmx || r.Method != http.MethodGet || !cleanPath(r.URL.Path) || !cleanPath(path) {
		return ""
	}
	back := path
	if r.URL.RawQuery != "" {
		back += "?" + r.URL.RawQuery
	}
	if d.Origin != "" {
		scheme, _, _ := strings.Cut(d.Origin, "://")
		back = scheme + "://" + r.Host + back
	}
	if len(back) > maxReturn {
		return ""
	}
	separator := "?"
	if strings.Contains(d.Login, "?") {
		separator = "&"
	}
	return separator + url.Values{d.ReturnTo: {back}}.Encode()
}

// maxAccept bounds a header Accept, in bytes. Browsers send about 150.
const maxAccept = 2 << 10

// acceptsHTML reports whether a request accepts text/html by that name, as browsers do and programs don't. A
// header longer than any browser's doesn't count.
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
			q := params["q"] // q=0 means not acceptable
			if err == nil && kind == "text/html" && (q == "" || strings.Trim(q, "0.") != "") {
				return true
			}
		}
	}
	return false
}

// validate checks the configuration: no target may lead to another site, except to Origin.
func (d *Redirects) validate() error {
	for field, target := range map[string]string{"Login": d.Login, "Billing": d.Billing} {
		if target != "" && !localTarget(target) {
			return fmt.Errorf("Redirects.%s: give a path that begins with a single /, such as /login", field)
		}
	}
	if d.Origin != "" && !origin(d.Origin) {
		return errors.New("Redirects.Origin: give https:// and a host, such as https://accounts.example.com")
	}
	if strings.Trim(d.ReturnTo, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		return errors.New("Redirects.ReturnTo: give a parameter's name of a-z, 0-9, _ and -")
	}
	return nil
}

// origin reports whether a text is an origin that may receive passwords.
func origin(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || text != u.Scheme+"://"+u.Host ||
		strings.ContainsAny(text, " \\\"'<>") {
		return false
	}
	local := u.Hostname() == "localhost" || strings.HasSuffix(u.Hostname(), ".localhost")
	return u.Scheme == "https" || u.Scheme == "http" && local
}

// localTarget reports whether a target stays on this site, however a browser reads odd characters.
func localTarget(target string) bool {
	// Neither is allowed in a query, since the page may redirect to what it gets there.
	if strings.Contains(target, "//") || strings.Contains(target, ":") {
		return false
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == '\\' || c >= 0x7f {
			return false
		}
	}
	u, err := url.Parse(target)
	return err == nil && u.Scheme == "" && u.Host == "" && u.User == nil &&
		cleanPath(u.EscapedPath()) && cleanPath(u.Path)
}
