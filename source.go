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

	"github.com/tenantdb/tenantdb/hostdb"
	"github.com/tenantdb/tenantdb/internal/refusal"
)

// Source finds the tenant that a request names. It only selects: the membership decides whether the caller
// may enter. Make one with [FromHeader], [FromSubdomain], [FromPathValue], [FromPathPrefix], [FromClaim],
// [FromSoleMembership] or [FromFunc]. Combine several with [Sources].
type Source struct {
	finders []finder
	sole    bool // FromSoleMembership is among them
	routed  bool // FromPathValue is among them
	custom  bool // FromFunc is among them
	err     error
}

// finder looks for the tenant in one place of a request.
type finder struct {
	// find returns the tenant's slug or id, or "" if the place names none.
	find func(*http.Request, *Identity) (string, error)
	// vary is the request header that the result depends on, if any.
	vary string
}

// FromHeader takes the tenant from a request header. If the header is repeated, all values must be equal. A
// header whose name differs only in underscores is refused with [ErrInvalidTenant], since some proxies turn
// these into hyphens.
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

// headerCharacters are those that the name of a header may have here.
const headerCharacters = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// underscoreTwins returns the canonical names that have underscores for one or more hyphens of key.
func underscoreTwins(key string) ([]string, error) {
	hyphens := strings.Count(key, "-")
	switch {
	case key == "Host":
		return nil, errors.New("FromHeader(\"Host\"): Host is no header here; use FromSubdomain")
	case key == "", strings.Trim(key, headerCharacters) != "", hyphens > 4:
		return nil, fmt.Errorf("FromHeader(%q): give a name of letters, digits and at most 4 hyphens", key)
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

// FromSubdomain takes the tenant from the label before baseDomain in the request's Host, such as "acme" of
// acme.example.com. A port, a trailing dot and upper case don't matter. Two labels are refused with
// [ErrInvalidTenant]. baseDomain itself and other hosts name no tenant. X-Forwarded-Host is never read, so
// proxies must pass Host on.
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

// FromPathValue takes the tenant from a wildcard of the route's pattern, such as "/t/{tenant}/notes". The
// router must match before the middleware runs, so wrap the handler and not the mux. In chi use With, or Use
// inside the Route whose pattern has the wildcard. In gin use contrib/gin. Before the match the path names no
// tenant, and other sources decide alone.
func FromPathValue(name string) Source {
	var err error
	if name == "" {
		err = errors.New("FromPathValue: give the wildcard's name")
	}
	find := func(r *http.Request, _ *Identity) (string, error) { return r.PathValue(name), nil }
	return Source{finders: []finder{{find: find}}, routed: true, err: err}
}

// FromPathPrefix takes the tenant from the path's first segment, such as "acme" of /acme/notes. The router
// sees the whole path. A path with empty, "." or ".." segments is refused with [ErrInvalidTenant], since the
// router may read it differently.
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
			return "", fmt.Errorf("%w: it is escaped", ErrInvalidTenant)
		}
		return segment, nil
	}}}}
}

// FromClaim takes the tenant from a claim of the caller's credential. A claim that isn't a string is refused
// with [ErrInvalidTenant].
func FromClaim(name string) Source {
	var err error
	if name == "" {
		err = errors.New("FromClaim: give the claim's name")
	}
	return Source{err: err, finders: []finder{{find: func(_ *http.Request, id *Identity) (string, error) {
		claim, ok := id.Claims[name]
		if !ok {
			return "", nil
		}
		value, _ := claim.(string)
		if value == "" {
			return "", fmt.Errorf("%w: the claim %s isn't a text", ErrInvalidTenant, name)
		}
		return value, nil
	}}}}
}

// FromFunc takes the tenant's slug or id from find, which returns "" if the request names none. vary is the
// request header that its result depends on, or "". It becomes part of every response's Vary header. An error
// that isn't one of this package's refuses the request with [ErrInvalidTenant]. Each call gets a copy of the
// Identity.
func FromFunc(vary string, find func(*http.Request, *Identity) (string, error)) Source {
	var err error
	if find == nil {
		err = errors.New("FromFunc: give a function")
	}
	own := func(r *http.Request, id *Identity) (string, error) { return find(r, id.Clone()) }
	return Source{finders: []finder{{own, textproto.CanonicalMIMEHeaderKey(vary)}}, custom: true, err: err}
}

// FromSoleMembership takes the only tenant of which the caller is an active member. It is used if no other
// source finds a tenant. A caller who has no membership, or several, names no tenant ([ErrNoTenant]).
// Together with [FromPathValue], it is used only after the router has matched the whole path:
// [http.Request.Pattern] is set and doesn't stand for a subtree. Before that, nobody knows whether the path
// names a tenant.
func FromSoleMembership() Source {
	return Source{sole: true}
}

// Sources combines sources. All that find a tenant must agree. Two different names are refused with
// [ErrTenantConflict], a slug beside an id with [ErrInvalidTenant]. Neither is looked up.
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

// tenant returns the one tenant that the request names. The key is zero if it names none.
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
			return hostdb.TenantKey{}, fmt.Errorf("%w: a slug and an id", ErrInvalidTenant)
		default:
			return hostdb.TenantKey{}, ErrTenantConflict
		}
	}
	return found, nil
}

// routed reports whether a router has matched a request's whole path. It hasn't if the pattern stands for a
// subtree, such as "/api/", chi's "/api/*" or gin's "/api/*path": another router may find a tenant in the
// rest. Wildcards for several segments have many notations, so the segments are counted too.
func routed(r *http.Request) bool {
	pattern := r.Pattern
	switch {
	case pattern == "", strings.HasSuffix(pattern, "/"),
		strings.HasSuffix(pattern, "...}"), strings.Contains(pattern, "*"):
		return false
	}
	return strings.Count(strings.TrimSuffix(r.URL.Path, "/"), "/") <= strings.Count(pattern, "/")
}

// tenantKey tells a slug from an id. A name that is neither is refused, so that it reaches no query and no
// log.
func tenantKey(name string) (hostdb.TenantKey, error) {
	switch {
	case hostdb.ValidID(name):
		return hostdb.TenantKey{ID: name}, nil
	case hostdb.ValidSlug(name):
		return hostdb.TenantKey{Slug: name}, nil
	}
	return hostdb.TenantKey{}, ErrInvalidTenant
}

// varyOn returns the value of the header Vary: the request headers that name the caller, and the tenant if
// there is a source.
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
		// Host is part of every cache's key.
		if name != "" && name != "Host" && !slices.Contains(distinct, name) {
			distinct = append(distinct, name)
		}
	}
	return strings.Join(distinct, ", ")
}

// cleanPath reports whether every router reads a path alike: it begins with a slash and has no backslash and
// no empty, "." or ".." segments. A trailing slash is clean.
func cleanPath(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for segment, rest := "", path[1:]; rest != ""; {
		segment, rest, _ = strings.Cut(rest, "/")
		if segment == "" || segment == "." || segment == ".." || strings.IndexByte(segment, '\\') >= 0 {
			return false
		}
	}
	return true
}
