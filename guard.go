package tenantdb

import (
	"fmt"
	"net/http"
	"slices"
)

// RequireRole admits members whose role is at least role in Config.Roles (highest first); others are answered ErrForbidden. A
// role that Config.Roles doesn't name denies, required or held. It goes inside Handler.
func RequireRole(role string) func(http.Handler) http.Handler {
	return require(func(s *Scope) error {
		if s.ctx == nil {
			return ErrForbidden
		}
		roles := s.ctx.m.roles
		needed, held := slices.Index(roles, role), slices.Index(roles, s.Role)
		if needed < 0 || held < 0 || held > needed {
			return why(ErrForbidden, ReasonRole, "role "+role+" needed")
		}
		return nil
	})
}

// RequireFeature admits tenants whose plan in force has the feature; others are answered ErrForbidden. It goes inside Handler.
func RequireFeature(key string) func(http.Handler) http.Handler {
	return require(func(s *Scope) error {
		if !s.HasFeature(key) {
			return why(ErrForbidden, ReasonFeature, "feature "+key+" needed")
		}
		return nil
	})
}

// RequireTier admits tenants whose plan in force has at least that tier_level; others are answered ErrForbidden. It goes inside
// Handler.
func RequireTier(level int) func(http.Handler) http.Handler {
	return require(func(s *Scope) error {
		if s.Plan == nil || s.Plan.TierLevel < level {
			return why(ErrForbidden, ReasonTier, fmt.Sprintf("tier %d needed", level))
		}
		return nil
	})
}

// require turns a check into a guard. Without a scope it denies.
func require(check func(*Scope) error) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			scope, ok := FromContext(r.Context())
			if !ok {
				WriteError(w, r, fmt.Errorf("%w: guard outside Middleware.Handler", ErrForbidden))
				return
			}
			if err := check(scope); err != nil {
				WriteError(w, r, err)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}
