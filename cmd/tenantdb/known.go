package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tenantdb/tenantdb/hostdb"
)

// shownPlans is how many plans an error names.
const shownPlans = 20

// shownRows is how many rows an error names.
const shownRows = 3

// checkPlan refuses an unknown plan, so that no tenant gets a misspelt one. The free plan needs no row.
func checkPlan(ctx context.Context, host *hostdb.DB, id string) error {
	if id == hostdb.TierFree {
		return nil
	}
	_, err := findPlan(ctx, host, id)
	return err
}

// checkPlanFlag is checkPlan for a flag that may not have been given.
func checkPlanFlag(ctx context.Context, host *hostdb.DB, flag *string) error {
	if flag == nil {
		return nil
	}
	return checkPlan(ctx, host, *flag)
}

// findPlan returns the plan with this id. If there is none, the error names the existing ones.
func findPlan(ctx context.Context, host *hostdb.DB, id string) (*hostdb.PricingPlan, error) {
	plan, err := host.Plans.Get(ctx, id)
	if !errors.Is(err, hostdb.ErrNotFound) {
		return plan, err
	}
	known, err := host.Plans.List(ctx, hostdb.Limit(shownPlans+1))
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(known))
	for _, plan := range known {
		ids = append(ids, plan.ID)
	}
	return nil, fmt.Errorf("plan %q: %w; known plans: %s", id, hostdb.ErrNotFound, some(ids, shownPlans))
}

// some lists at most so many words, and … for more.
func some(words []string, most int) string {
	if len(words) == 0 {
		return "none"
	}
	if len(words) > most {
		words = append(words[:most:most], "…")
	}
	return strings.Join(words, ", ")
}

// count writes a number of things.
func count(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
