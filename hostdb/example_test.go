package hostdb_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/tenantdb/tenantdb/hostdb"
)

// memory opens a database in memory.
func memory() *hostdb.DB {
	db, err := hostdb.Open(context.Background(), "sqlite::memory:")
	if err != nil {
		log.Fatal(err)
	}
	return db
}

func ExampleOpen() {
	db, err := hostdb.Open(context.Background(), "sqlite::memory:")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	fmt.Println(db, db.Ping(context.Background()))
	// Output: sqlite::memory: <nil>
}

func ExampleOpen_wrong() {
	_, err := hostdb.Open(context.Background(), "mysql://root@localhost/app")
	var field *hostdb.FieldError
	fmt.Println(errors.Is(err, hostdb.ErrInvalid), errors.As(err, &field), field.Field)
	// Output: true true url
}

func ExampleDB_InTx() {
	db, ctx := memory(), context.Background()
	defer db.Close()
	user := hostdb.NewUser("ada@example.com", "")
	tenant := hostdb.NewTenant("Acme", "acme")
	err := db.InTx(ctx, func(tx *hostdb.Tx) error {
		if err := errors.Join(tx.Users.Insert(ctx, user), tx.Tenants.Insert(ctx, tenant)); err != nil {
			return err
		}
		return tx.Memberships.Insert(ctx, hostdb.NewMembership(user.ID, tenant.ID, hostdb.RoleOwner))
	})
	members, _ := db.Memberships.ListForTenant(ctx, tenant.ID)
	fmt.Println(err, len(members), members[0].Role)
	// Output: <nil> 1 owner
}

func ExampleTx_InTx() {
	db, ctx := memory(), context.Background()
	defer db.Close()
	err := db.InTx(ctx, func(tx *hostdb.Tx) error {
		if err := tx.Plans.Insert(ctx, hostdb.NewPlan("pro", "Pro")); err != nil {
			return err
		}
		err := tx.InTx(ctx, func(tx *hostdb.Tx) error { // is undone alone
			return tx.Plans.Insert(ctx, hostdb.NewPlan("pro", "Pro again"))
		})
		fmt.Println(err)
		return nil
	})
	plan, _ := db.Plans.Get(ctx, "pro")
	fmt.Println(err, plan.Name)
	// Output:
	// hostdb: conflict: id: is taken
	// <nil> Pro
}

func ExampleDB_Access() {
	db, ctx := memory(), context.Background()
	defer db.Close()
	user := hostdb.NewUser("ada@example.com", "auth0|ada")
	tenant := hostdb.NewTenant("Acme", "acme")
	if err := errors.Join(db.Users.Insert(ctx, user), db.Tenants.Insert(ctx, tenant)); err != nil {
		log.Fatal(err)
	}
	access, err := db.Access(ctx, hostdb.UserKey{OAuthID: "auth0|ada"}, hostdb.TenantKey{Slug: "acme"})
	fmt.Println(access.User.Email, access.Tenant.Open(), access.Membership == nil, err)
	// Output: ada@example.com true true <nil>
}

func ExampleTable_All() {
	db, ctx := memory(), context.Background()
	defer db.Close()
	for _, id := range []string{"free", "pro", "team"} {
		plan := hostdb.NewPlan(id, id)
		plan.IsActive = id != "team"
		if err := db.Plans.Insert(ctx, plan); err != nil {
			log.Fatal(err)
		}
	}
	for plan, err := range db.Plans.All(ctx, hostdb.Where("is_active", true)) {
		fmt.Println(plan.ID, err)
	}
	// Output:
	// free <nil>
	// pro <nil>
}

func ExampleWithActor() {
	db := memory()
	defer db.Close()
	ctx := hostdb.WithActor(context.Background(), "ada")
	plan := hostdb.NewPlan("pro", "Pro")
	_ = db.Plans.Insert(ctx, plan)
	plan.Name = "Professional"
	_ = db.Plans.Update(ctx, plan)
	logs, _ := db.AuditLogs.ListForTarget(ctx, "pro")
	fmt.Println(logs[1].ActorUserID, logs[1].EventType, logs[1].Details)
	// Output: ada plan.updated {"name":["Pro","Professional"]}
}

func ExampleJobs_Claim() {
	db, ctx := memory(), context.Background()
	defer db.Close()
	_, _ = db.Jobs.Enqueue(ctx,
		&hostdb.SystemJob{JobType: "welcome", Payload: "ada@example.com", DedupeKey: "welcome-ada"})
	job, err := db.Jobs.Claim(ctx, "worker-1", []string{"welcome"}, time.Minute)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.Payload, job.Attempts, db.Jobs.Complete(ctx, job))
	// Output: ada@example.com 1 <nil>
}

func ExampleDB_Changes() {
	db, ctx := memory(), context.Background()
	defer db.Close()
	for delivery, err := range db.Changes(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if delivery.Reset { // the first one
			_ = db.Plans.Insert(ctx, hostdb.NewPlan("pro", "Pro"))
			continue
		}
		if len(delivery.Changes) > 0 {
			fmt.Println(delivery.Changes[0].Kind, delivery.Changes[0].PlanID)
			break
		}
	}
	// Output: plan pro
}

func ExampleSecret() {
	tenant := hostdb.TenantCatalog{DBURL: "postgres://app:pass@db/acme"}
	fmt.Println(tenant.DBURL, tenant.DBURL.Reveal())
	// Output: [secret] postgres://app:pass@db/acme
}

func ExampleSubscription_ActiveAt() {
	end := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	s := &hostdb.Subscription{PaymentType: hostdb.PaymentSubscription, Status: hostdb.SubscriptionPastDue,
		CurrentPeriodEnd: &end}
	fmt.Println(s.ActiveAt(end.Add(time.Hour), hostdb.DefaultGrace),
		s.ActiveAt(end.Add(100*time.Hour), hostdb.DefaultGrace))
	// Output: true false
}

// A trial may be started at sign-up and at every login. The second call returns the first one's trial.
// StatusAt tells a page how it stands.
func ExampleSubscriptions_StartTrial() {
	ctx := context.Background()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	host, err := hostdb.OpenConfig(ctx,
		hostdb.Config{URL: "sqlite::memory:", Now: func() time.Time { return now }})
	if err != nil {
		panic(err)
	}
	defer host.Close()
	acme, pro := hostdb.NewTenant("Acme", "acme"), hostdb.NewPlan("pro", "Pro")
	pro.TrialDays = 14
	if err := errors.Join(host.Tenants.Insert(ctx, acme), host.Plans.Insert(ctx, pro)); err != nil {
		panic(err)
	}
	for range 2 {
		trial, started, err := host.Subscriptions.StartTrial(ctx, acme.ID, "pro")
		if err != nil {
			panic(err)
		}
		status := trial.StatusAt(now.Add(36*time.Hour), hostdb.DefaultGrace)
		fmt.Println(started, status.Trialing, status.DaysLeft, "days left")
	}
	// Output:
	// true true 13 days left
	// false true 13 days left
}
