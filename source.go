package tenantdb

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"

	"github.com/tenantdb/tenantdb/internal/refusal"

	"github.com/tenantdb/tenantdb/hostdb"
)

// Source is where a request names its tenant. A source only selects: whether the caller may enter is decided
// by the membership. Make one with FromHeader, FromSubdomain, FromPathValue, FromPathPrefix, FromClaim,
// FromSoleMembership, FromFunc, or several with Sources.
type Source struct {
	finders []finder
	sole    bool // FromSoleMembership is among them
	routed  bool // FromPathValue is among them
	custom  bool // FromFunc is among them
	err     error
}

// finder is one place to look.
type finder struct {
	// find returns the tenant's slug or id, "" where the request has none in this place.
	find func(*http.Request, *Identity) (string, error)
	// vary is the request header on which the answer depends, if any.
	vary string
}

// FromHeader takes the tenant from a request header. Several such headers must agree. A header that differs
// from name only in underscores, which some proxies fold into hyphens, is refused (ErrInvalidTenant).
func FromHeader(name string) Source {
	key := textproto.CanonicalMIMEHeaderKey(name)
	twins, err := underscoreTwins(key)
	find := func(r *http.Request, _ *Identity) (string, error) {
		for _, twin := range twins {
			if _, ok := r.Header[twin]; ok {
				return "", fmt.Errorf("%w: header with an underscore", ErrInvalidTenant)
			}
		}
		values := r.Header[key]
		if len(values) == 0 {
			return "", nil
		}
		for _, v := range values[1:] {
			if v != values[0] {
				return "", fmt.Errorf("%w: two values of one header", ErrTenantConflict)
			}
		}
		if values[0] == "" {
			return "", fmt.Errorf("%w: empty header", ErrInvalidTenant)
		}
		return values[0], nil
	}
	return Source{finders: []finder{{find, key}}, err: err}
}

// underscoreTwins returns the canonical names that differ from key in one or more underscores for hyphens.
func underscoreTwins(key string) ([]string, error) {
	hyphens := strings.Count(key, "-")
	plain := func(c rune) bool {
		return c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	switch {
	case key == "Host":
		return nil, errors.New("FromHeader(\"Host\"): Host is no header here; use FromSubdomain")
	case key == "" || strings.ContainsFunc(key, func(c rune) bool { return !plain(c) }) || hyphens > 4:
		return nil, fmt.Errorf("FromHeader(%q): give a header name of letters, digits and at most 4 hyphens", key)
	}
	var twins []string
	for mask := 1; mask < 1<<hyphens; mask++ {
		twin, n := []byte(key), 0
		for i, c := range twin {
			if c != '-' {
				continue
			}
			if mask&(1<<n) != 0 {
				twin[i] = '_'
			}
			n++
		}
		twins = append(twins, textproto.CanonicalMIMEHeaderKey(string(twin)))
	}
	return twins, nil
}

// FromSubdomain takes the tenant from the one label in front of baseDomain in the request's Host ("acme" in
// acme.example.com). A port, a trailing dot and upper case don't matter. Hosts outside baseDomain, and
// baseDomain itself, name no tenant; two labels are refused (ErrInvalidTenant). X-Forwarded-Host is never
// read: have the proxy pass Host on.
func FromSubdomain(baseDomain string) Source {
	base := strings.ToLower(strings.Trim(baseDomain, "."))
	var err error
	if _, ipErr := netip.ParseAddr(base); ipErr == nil || base == "" || strings.ContainsAny(base, ":/@ *") {
		err = fmt.Errorf("FromSubdomain(%q): give a domain name such as example.com", baseDomain)
	}
	suffix := "." + base
	find := func(r *http.Request, _ *Identity) (string, error) {
		host := r.Host
		if strings.IndexByte(host, ':') >= 0 {
			if h, _, err := net.SplitHostPort(host); err == nil {
				host = h
			}
		}
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if bare := strings.TrimRight(host, ".:0123456789"); bare != host && strings.HasSuffix(bare, suffix) {
			return "", fmt.Errorf("%w: malformed Host", ErrInvalidTenant)
		}
		label, ok := strings.CutSuffix(host, suffix)
		if !ok {
			return "", nil
		}
		if label == "" {
			return "", fmt.Errorf("%w: empty label", ErrInvalidTenant)
		}
		return label, nil
	}
	return Source{finders: []finder{{find, "Host"}}, err: err}
}

// FromPathValue takes the tenant from a wildcard of the route's pattern, as in "/t/{tenant}/notes". The
// router must have matched before the middleware runs: wrap the handler, not the mux; in chi use With, or Use
// inside the Route whose pattern has the wildcard; in gin use contrib/gin. Before that the path names no
// tenant, and another source beside this one decides alone.
func FromPathValue(name string) Source {
	var err error
	if name == "" {
		err = fmt.Errorf("FromPathValue: give the wildcard's name")
	}
	return Source{err: err, routed: true, finders: []finder{{find: func(r *http.Request, _ *Identity) (string, error) {
		return r.PathValue(name), nil
	}}}}
}

// FromPathPrefix takes the tenant from the path's first segment ("acme" in /acme/notes). The segment stays in
// the path that the router sees. A path that isn't clean (empty, "." or ".." segments) is refused, since the
// router may read it otherwise.
func FromPathPrefix() Source {
	return Source{finders: []finder{{find: func(r *http.Request, _ *Identity) (string, error) {
		path, escaped := r.URL.Path, r.URL.EscapedPath()
		if path == "" || path == "/" {
			return "", nil
		}
		if !cleanPath(path) || !cleanPath(escaped) {
			return "", fmt.Errorf("%w: the path isn't clean", ErrInvalidTenant)
		}
		segment, _, _ := strings.Cut(path[1:], "/")
		if as, _, _ := strings.Cut(escaped[1:], "/"); as != segment {
			return "", fmt.Errorf("%w: escaped", ErrInvalidTenant)
		}
		return segment, nil
	}}}}
}

// FromClaim takes the tenant from a claim of the caller's credential. A claim that isn't a string is refused
// (ErrInvalidTenant).
func FromClaim(name string) Source {
	var err error
	if name == "" {
		err = fmt.Errorf("FromClaim: give the claim's name")
	}
	return Source{err: err, finders: []finder{{find: func(_ *http.Request, id *Identity) (string, error) {
		claim, ok := id.Claims[name]
		if !ok {
			return "", nil
		}
		value, _ := claim.(string)
		if value == "" {
			return "", fmt.Errorf("%w: claim %s is not a name", ErrInvalidTenant, name)
		}
		return value, nil
	}}}}
}

// FromFunc takes the tenant's slug or id from find, which returns "" where the request names none. The header
// on which its answer depends, if any, goes into the Vary of every answer. An error that is none of this
// package's refuses the request as ErrInvalidTenant. Each call gets an Identity of its own, whose claims are
// copied for it.
func FromFunc(vary string, find func(*http.Request, *Identity) (string, error)) Source {
	var err error
	if find == nil {
		err = fmt.Errorf("FromFunc: give a function")
	}
	own := func(r *http.Request, id *Identity) (string, error) { return find(r, id.Clone()) }
	return Source{finders: []finder{{own, textproto.CanonicalMIMEHeaderKey(vary)}}, custom: true, err: err}
}

// FromSoleMembership takes the one tenant of which the caller is an active member, and is asked only where
// every other source finds none. A caller with no membership, or with several, names no tenant (ErrNoTenant).
// Beside FromPathValue it counts only once the router has matched to the path's end (Request.Pattern is set,
// and is no pattern of a whole subtree): before that, a tenant in the path can't be told from none.
func FromSoleMembership() Source {
	return Source{sole: true}
}

// Sources combines sources. All that find a tenant must agree: two values end in ErrTenantConflict, a slug
// beside an id in ErrInvalidTenant, before anything is looked up.
func Sources(sources ...Source) Source {
	var all Source
	for _, s := range sources {
		all.finders = append(all.finders, s.finders...)
		all.sole = all.sole || s.sole
		all.routed = all.routed || s.routed
		all.custom = all.custom || s.custom
		if all.err == nil {
			all.err = s.err
		}
	}
	return all
}

// tenant returns the one tenant that the request names; the zero key where it names none.
func (s *Source) tenant(r *http.Request, id *Identity) (hostdb.TenantKey, error) {
	var found hostdb.TenantKey
	for i := range s.finders {
		name, err := s.finders[i].find(r, id)
		if err != nil && refusal.Of(err) == refusal.Unknown {
			err = refusal.WithCause(ErrInvalidTenant, err)
		}
		if err != nil {
			return hostdb.TenantKey{}, err
		}
		if name == "" {
			continue
		}
		key, err := tenantKey(name)
		if err != nil {
			return hostdb.TenantKey{}, err
		}
		switch {
		case found == key || found == hostdb.TenantKey{}:
			found = key
		case (found.ID == "") != (key.ID == ""):
			return hostdb.TenantKey{}, fmt.Errorf("%w: a slug in one place, an id in another", ErrInvalidTenant)
		default:
			return hostdb.TenantKey{}, ErrTenantConflict
		}
	}
	return found, nil
}

// routed reports whether a router has matched a request's whole path. Behind a pattern that stands for a
// subtree, such as "/api/", chi's "/api/*" or gin's "/api/*path", another router may find a tenant in the
// rest. A wildcard that stands for several segments has many notations, so the path's segments are counted
// too.
func routed(r *http.Request) bool {
	pattern := r.Pattern
	switch {
	case pattern == "", strings.HasSuffix(pattern, "/"), strings.HasSuffix(pattern, "...}"), strings.Contains(pattern, "*"):
		return false
	}
	return strings.Count(strings.TrimSuffix(r.URL.Path, "/"), "/") <= strings.Count(pattern, "/")
}

// tenantKey tells a slug from an id. What is neither never reaches a query, nor a log.
func tenantKey(name string) (hostdb.TenantKey, error) {
	switch {
	case hostdb.ValidID(name):
		return hostdb.TenantKey{ID: name}, nil
	case hostdb.ValidSlug(name):
		return hostdb.TenantKey{Slug: name}, nil
	}
	return hostdb.TenantKey{}, ErrInvalidTenant
}

// varyOn returns the value of Vary: the request headers that tell who asks, and in which tenant where there
// is a source.
func varyOn(auth Authenticator, source *Source) string {
	names := []string{"Authorization", "Cookie"}
	if more, ok := auth.(interface{ Vary() []string }); ok {
		names = append(names, more.Vary()...)
	}
	if source != nil {
		for _, f := range source.finders {
			names = append(names, f.vary)
		}
	}
	var distinct []string
	for _, name := range names {
		name = textproto.CanonicalMIMEHeaderKey(name)
		if name != "" && name != "Host" && !slices.Contains(distinct, name) { // Host is part of every cache key
			distinct = append(distinct, name)
		}
	}
	return strings.Join(distinct, ", ")
}

// cleanPath reports whether a path is what every router takes it for: rooted, without empty, "." or ".."
// segments, without a backslash. A trailing slash is clean.
func cleanPath(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for rest := path[1:]; rest != ""; {
		segment, after, more := strings.Cut(rest, "/")
		if segment == "" || segment == "." || segment == ".." || strings.IndexByte(segment, '\\') >= 0 {
			return false
		}
		if !more {
			break
		}
		rest = after
	}
	return true
}
