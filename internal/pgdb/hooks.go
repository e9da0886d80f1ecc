package pgdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/internal/dburl"
	"github.com/tenantdb/tenantdb/internal/hook"
)

// The names of the hooks, for their errors.
const (
	beforeConnect = "PoolConfig.BeforeConnect"
	afterConnect  = "PoolConfig.AfterConnect"
)

// hooks counts the calls of hooks that were left running. While a tenant has one, its other calls fail at
// once: each tenant has few calls that were left, however often it is tried.
type hooks struct {
	mu   sync.Mutex     // guards left
	left map[string]int // by tenant
}

// call calls a hook for a tenant.
func (h *hooks) call(ctx context.Context, name, tenantID string, do func() error) error {
	h.mu.Lock()
	stuck := h.left[tenantID] > 0
	h.mu.Unlock()
	if stuck {
		return &hook.Error{Hook: name, Reason: "an earlier call for this tenant has not returned yet"}
	}
	err := hook.Call(ctx, name, do, func() { h.add(tenantID, -1) })
	if hook.WasLeft(err) {
		h.add(tenantID, 1)
	}
	return err
}

// add counts n more calls that were left. A return may be counted before what it ends.
func (h *hooks) add(tenantID string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left == nil {
		h.left = make(map[string]int)
	}
	if h.left[tenantID] += n; h.left[tenantID] == 0 {
		delete(h.left, tenantID)
	}
}

// configure returns the configuration for one attempt to connect a tenant, after Config.BeforeConnect.
func (p *Pool) configure(ctx context.Context, tenantID string, address *dburl.URL) (*pgx.ConnConfig, error) {
	own := address.Config()
	if _, given := own.RuntimeParams["application_name"]; !given && p.cfg.ApplicationName != "" {
		own.RuntimeParams["application_name"] = applicationName(p.cfg.ApplicationName, tenantID)
	}
	if p.cfg.BeforeConnect == nil {
		return own, nil
	}
	if own.Database == "" { // the server would take the user's name, which the hook may change
		own.Database = own.User
	}
	given := own.Copy()
	var checked *pgx.ConnConfig
	err := p.hooks.call(ctx, beforeConnect, tenantID, func() error {
		err := p.cfg.BeforeConnect(ctx, tenantID, given)
		if err == nil {
			err = checkConfig(own, given)
		}
		if err == nil {
			checked = given.Copy() // the hook may have kept the other one
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return checked, nil
}

// checkConfig refuses what a hook has made of a configuration if it leads to another database, or replaces
// what the pool itself needs.
func checkConfig(own, given *pgx.ConnConfig) error {
	const (
		elsewhere = "it changed %s: the tenant's db_url alone says where its database is"
		reserved  = "it set %s, which the pool itself needs"
	)
	_, named := given.RuntimeParams["database"] // the server takes it for the database
	switch {
	case given.Host != own.Host:
		return fmt.Errorf(elsewhere, "Host")
	case given.Port != own.Port:
		return fmt.Errorf(elsewhere, "Port")
	case given.Database != own.Database:
		return fmt.Errorf(elsewhere, "Database")
	case named:
		return fmt.Errorf(elsewhere, `RuntimeParams["database"]`)
	case !slices.Equal(hostsOf(given), hostsOf(own)):
		return fmt.Errorf(elsewhere, "the hosts in Fallbacks")
	case !isSameFunc(given.BuildFrontend, own.BuildFrontend):
		return fmt.Errorf(reserved, "BuildFrontend")
	case !isSameFunc(given.BuildContextWatcherHandler, own.BuildContextWatcherHandler):
		return fmt.Errorf(reserved, "BuildContextWatcherHandler")
	case given.AfterNetConnect != nil:
		return errors.New("it set AfterNetConnect: wrap DialFunc instead")
	case given.Config.AfterConnect != nil:
		return errors.New("it set AfterConnect: set PoolConfig.AfterConnect instead")
	case given.DialFunc == nil || given.LookupFunc == nil || given.OnPgError == nil:
		return errors.New("it removed DialFunc, LookupFunc or OnPgError")
	}
	return nil
}

// hostsOf returns the hosts of a configuration, sorted, each once: one is listed twice if TLS is optional.
func hostsOf(cfg *pgx.ConnConfig) []string {
	hosts := []string{net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))}
	for _, next := range cfg.Fallbacks {
		hosts = append(hosts, net.JoinHostPort(next.Host, strconv.Itoa(int(next.Port))))
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// isSameFunc reports whether two functions have the same code, or are both nil.
func isSameFunc(a, b any) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() }

// maxApplicationName is how many bytes of application_name a server keeps (NAMEDATALEN - 1).
const maxApplicationName = 63

// applicationName returns the name by which a server lists a tenant's connections. The tenant's id is kept
// whole if there is room for it.
func applicationName(program, tenantID string) string {
	tenantID = tenantID[:min(len(tenantID), maxApplicationName-2)]
	program = program[:min(len(program), maxApplicationName-1-len(tenantID))]
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' { // the server replaces them too, and a zero byte ends a parameter
			return '?'
		}
		return c
	}, program+"/"+tenantID)
}

// setUp calls Config.AfterConnect on a connection that nobody else has. What the hook does to the session is
// the state that each borrower finds.
func (p *Pool) setUp(ctx context.Context, c *pooledConn, tenantID string) error {
	conn, config := c.std.Conn(), c.guard.config
	c.guard.checkout, c.guard.limit = nil, 0
	err := p.hooks.call(ctx, afterConnect, tenantID, func() error {
		// A named statement that sets something could run again without the session seeing it.
		if config.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
			config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
			defer func() { config.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement }()
		}
		return p.cfg.AfterConnect(ctx, tenantID, conn)
	})
	if hook.WasLeft(err) {
		c.abandoned.Store(true)
	}
	if err != nil {
		return err
	}
	s := c.session
	switch {
	case conn.IsClosed() || conn.PgConn().IsBusy() || conn.PgConn().TxStatus() != 'I':
		return &hook.Error{Hook: afterConnect,
			Reason: "it closed the connection, left a transaction open, or rows unread"}
	case c.guard.shared && (s.changed || s.mustClose || s.preparedSetter):
		return &hook.Error{Hook: afterConnect, Reason: errSharedSession.Error()}
	}
	s.changed = false
	return nil
}
