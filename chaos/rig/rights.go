package rig

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantdb/tenantdb/chaos/judge"
)

// Rights takes rights away and gives them back by plain SQL, and tells the judge.
type Rights struct {
	// Volatile are the clients whose rights change.
	Volatile []Client
	// Changed counts the changes, Failed those that failed. Read them after Pause.
	Changed, Failed int

	w     *World
	r     *rand.Rand
	every time.Duration
	all   []right
	stop  context.CancelFunc
	done  sync.WaitGroup

	// These belong to the goroutine, and to the caller of Pause until Continue.
	conn    *pgx.Conn
	revoked map[right]bool
}

// right is what is given and taken away: a membership, a tenant or a subscription.
type right struct {
	subject judge.Subject
	kind    byte // m, t, s
	user    string
	tenant  *Tenant
}

// ChangeRights begins to change a right at each interval. In two fifths of the tenants the memberships of all
// users but the first change, and a fifth of the tenants and their subscriptions.
func (w *World) ChangeRights(every time.Duration) {
	rights := &Rights{w: w, r: rand.New(rand.NewPCG(w.Seed, 99)), every: every, revoked: make(map[right]bool)}
	for i, t := range w.Tenants[:min(len(w.Tenants), 150)] {
		switch i % 5 {
		case 0, 1:
			for _, c := range t.Clients[1:] {
				rights.all = append(rights.all, right{judge.Membership(c.User, t.Slug), 'm', t.Users[c.User],
					t})
				rights.Volatile = append(rights.Volatile, c)
			}
		case 4:
			rights.all = append(rights.all, right{judge.Tenant(t.Slug), 't', "", t},
				right{judge.Subscription(t.Slug), 's', "", t})
			rights.Volatile = append(rights.Volatile, t.Clients[0])
		}
	}
	w.Load.volatile(rights.Volatile)
	w.Rights = rights
	w.OnClose(func() {
		rights.stop()
		rights.done.Wait()
	})
	rights.Continue()
}

// Continue starts the changes, or resumes them after a Pause.
func (rights *Rights) Continue() {
	ctx, stop := context.WithCancel(context.Background())
	rights.stop = stop
	rights.done.Go(func() {
		for {
			select {
			case <-time.After(rights.every/2 + time.Duration(rights.r.Int64N(int64(rights.every)))):
				rights.change(ctx, rights.all[rights.r.IntN(len(rights.all))])
			case <-ctx.Done():
				return
			}
		}
	})
}

// change takes a right away, or gives it back if it was taken away.
func (rights *Rights) change(ctx context.Context, x right) {
	given := rights.revoked[x]
	statement, args := x.statement(given, rights.r.IntN(2) == 0)
	rights.w.Judge.Changing(x.subject, given, time.Now())
	if err := rights.exec(context.WithoutCancel(ctx), statement, args...); err != nil {
		rights.Failed++
		rights.revoked[x] = given // nobody knows whether it happened; the next change repeats it
		return
	}
	rights.Changed++
	rights.w.Judge.Changed(x.subject, time.Now())
	rights.revoked[x] = !given
}

// statement returns the SQL of the change. A membership is revoked in two ways.
func (x right) statement(given, delete bool) (string, []any) {
	switch {
	case x.kind == 'm' && given:
		return "INSERT INTO core_memberships (user_id, tenant_id) VALUES ($1, $2) ON CONFLICT (user_id, " +
				"tenant_id) DO UPDATE SET is_active = true",
			[]any{x.user, x.tenant.ID}
	case x.kind == 'm' && delete:
		return "DELETE FROM core_memberships WHERE user_id = $1 AND tenant_id = $2",
			[]any{x.user, x.tenant.ID}
	case x.kind == 'm':
		return "UPDATE core_memberships SET is_active = false WHERE user_id = $1 AND tenant_id = $2",
			[]any{x.user, x.tenant.ID}
	case x.kind == 't':
		return "UPDATE core_tenants SET status = $2 WHERE id = $1",
			[]any{x.tenant.ID, map[bool]string{true: "active", false: "suspended"}[given]}
	}
	return "UPDATE core_subscriptions SET status = $2 WHERE tenant_id = $1",
		[]any{x.tenant.ID, map[bool]string{true: "active", false: "canceled"}[given]}
}

// exec runs a statement on the primary of the host database.
func (rights *Rights) exec(ctx context.Context, statement string, args ...any) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if rights.conn == nil {
		if rights.conn, err = rights.connect(ctx); err != nil {
			return err
		}
	}
	if _, err = rights.conn.Exec(ctx, statement, args...); err != nil {
		_ = rights.conn.Close(ctx)
		rights.conn = nil
	}
	return err
}

// connect returns a connection. It ends statements of earlier connections, which failed here but may still
// run: they would undo later changes.
func (rights *Rights) connect(ctx context.Context) (*pgx.Conn, error) {
	const name = "rights"
	conn, err := pgx.Connect(ctx, rights.w.Host.Primary().URL("host")+"&application_name="+name)
	for left := 1; err == nil && left > 0; {
		err = conn.QueryRow(ctx,
			"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1 AND "+
				"pid <> pg_backend_pid()",
			name).Scan(&left)
	}
	if err != nil && conn != nil {
		_ = conn.Close(ctx)
	}
	return conn, err
}

// Pause stops the changes, and gives all rights back.
func (rights *Rights) Pause() error {
	rights.stop()
	rights.done.Wait()
	for x := range rights.revoked { // also those whose change failed, since it may have happened
		statement, args := x.statement(true, false)
		rights.w.Judge.Changing(x.subject, true, time.Now())
		if err := rights.exec(context.Background(), statement, args...); err != nil {
			return err
		}
		rights.w.Judge.Changed(x.subject, time.Now())
		delete(rights.revoked, x)
	}
	return nil
}

// HostExec runs a statement on the primary of the host database, as an operator does.
func (w *World) HostExec(statement string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, w.Host.Primary().URL("host"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement, args...)
	return err
}

// Move changes a tenant's URL in the catalog.
func (w *World) Move(t *Tenant, url string) error {
	return w.HostExec("UPDATE core_tenants SET db_url = $2 WHERE id = $1", t.ID, url)
}
