package tenantdb

import (
	"fmt"
	"net/http"
	"strings"
)

// skipper matches the public routes. It matches a request only where every router reads its path alike;
// whatever is odd authenticates.
type skipper struct {
	mux *http.ServeMux // nil: nothing is public
}

// public marks a match: the mux's own handlers (redirects, not found, method not allowed) are of other types.
type public struct{}

// ServeHTTP implements http.Handler; it is never served.
func (public) ServeHTTP(http.ResponseWriter, *http.Request) {}

// newSkipper checks the patterns, which follow http.ServeMux.
func newSkipper(patterns []string) (s skipper, err error) {
	if len(patterns) == 0 {
		return skipper{}, nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("Skip: %v", p)
		}
	}()
	s.mux = http.NewServeMux()
	for _, pattern := range patterns {
		if path := pattern[strings.IndexAny(pattern, " \t")+1:]; !strings.HasPrefix(strings.TrimLeft(path, " \t"), "/") {
			return skipper{}, fmt.Errorf("Skip: %q: give a path, without a host, which clients choose", pattern)
		}
		s.mux.Handle(pattern, public{})
	}
	return s, nil
}

// match reports whether a request's route is public.
func (s *skipper) match(r *http.Request) bool {
	if s.mux == nil || r.Method == http.MethodConnect || r.URL.RawPath != "" || !cleanPath(r.URL.Path) {
		return false
	}
	handler, _ := s.mux.Handler(r)
	_, ok := handler.(public)
	return ok
}
