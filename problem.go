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

// Redirects says where a browser goes instead of seeing an error: requests that accept text/html get 303,
// those of HTMX 200 with HX-Redirect. Login and Billing are paths, such as "/login"; "" keeps the error
// response.
type Redirects struct {
	// Login is for a missing or bad credential. It must be reachable without one.
	Login string
	// Billing is for ErrSubscriptionInactive. Serve it behind HandlerWith(Rules{AllowInactive: true}, …).
	Billing string
	// Origin is where the pages are, if not on the host that was asked for, as with one login page for all
	// subdomains: "https://accounts.example.com". It is https, but for localhost and its subdomains. Default:
	// the same host.
	Origin string
	// ReturnTo names a query parameter in which the login page learns what a GET asked for: a path, or with
	// Origin a whole URL. Default: none. Anybody can make a link to the login page: it must check the host
	// before it sends a browser there.
	ReturnTo string
}

// problem is the response's body (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

// WriteProblem answers a request as the middleware does without Config.ErrorHandler: with the error's status
// and a problem+json body. It is for an ErrorHandler that only adds to the default, or takes over some
// errors. It logs nothing, and can be Config.ErrorHandler itself.
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) {
	writeProblem(w, refusal.Of(refusal.OfQuery(r.Context(), err)))
}

// writeProblem writes the default response.
func writeProblem(w http.ResponseWriter, f *refusal.Refusal) {
	body, _ := json.Marshal(problem{"about:blank", http.StatusText(f.Status), f.Status, f.Text, f.Code})
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
	if f.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "2")
	}
	w.WriteHeader(f.Status)
	_, _ = w.Write(body)
}

// redirect answers a browser or HTMX with the page that mends the error; false where there is none.
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

// maxReturn bounds the address that a login page is told, in bytes.
const maxReturn = 1 << 10

// returnTo is the query that tells the login page where to send the browser afterwards; "" where it isn't
// told.
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

// maxAccept bounds what is read of Accept, in bytes. Browsers send about 150.
const maxAccept = 2 << 10

// acceptsHTML reports whether a request names text/html among what it accepts, as browsers do and programs
// don't. A header that is longer than any browser's counts as a program's.
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

// validate refuses targets that could lead off this site, or off Origin.
func (d *Redirects) validate() error {
	for field, target := range map[string]string{"Login": d.Login, "Billing": d.Billing} {
		if target != "" && !localTarget(target) {
			return fmt.Errorf("Redirects.%s: give a path that begins with a single /, such as /login", field)
		}
	}
	if d.Origin != "" && !origin(d.Origin) {
		return errors.New("Redirects.Origin: give https:// and a host, such as https://accounts.example.com")
	}
	if strings.ContainsFunc(d.ReturnTo, func(c rune) bool { return c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') }) {
		return errors.New("Redirects.ReturnTo: give a parameter's name of a-z, 0-9, _ and -")
	}
	return nil
}

// origin reports whether a text is an origin that passwords may be sent to.
func origin(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || text != u.Scheme+"://"+u.Host || strings.ContainsAny(text, " \\\"'<>") {
		return false
	}
	local := u.Hostname() == "localhost" || strings.HasSuffix(u.Hostname(), ".localhost")
	return u.Scheme == "https" || u.Scheme == "http" && local
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
