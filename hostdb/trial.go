package hostdb

import (
	"context"
	"time"
)

// StartTrial gives a tenant a trial of a plan, for the plan's TrialDays from now, unless the tenant has or
// had a subscription of any kind. It returns the trial, or the oldest of those subscriptions, and whether
// the trial starts now. So it may be called repeatedly, at provisioning and at every login. The trial grants
// access until its end, whatever subscription follows. Errors: ErrNotFound for an unknown tenant or plan;
// ErrInvalid on "trial_days" for a plan without a trial.
func (t Subscriptions) StartTrial(ctx context.Context, tenantID,
	planID string) (trial *Subscription, started bool, err error) {
	err = t.s.write(ctx, func(tx *Tx) error {
		trial, started, err = startTrial(ctx, tx, tenantID, planID)
		return err
	})
	return trial, started, err
}

// startTrial locks the tenant's row, so that of two concurrent calls one starts the trial.
func startTrial(ctx context.Context, tx *Tx, tenantID, planID string) (*Subscription, bool, error) {
	if _, err := tx.Tenants.Lock(ctx, tenantID); err != nil {
		return nil, false, err
	}
	had, err := tx.Subscriptions.ListForTenant(ctx, tenantID, Where("payment_type", PaymentSubscription),
		Limit(1))
	if err != nil {
		return nil, false, err
	}
	if len(had) > 0 {
		return had[0], false, nil
	}
	plan, err := tx.Plans.Get(ctx, planID)
	if err != nil {
		return nil, false, err
	}
	if plan.TrialDays == 0 {
		return nil, false, invalid("trial_days", "the plan has no trial")
	}
	end := tx.db.now().Add(time.Duration(plan.TrialDays) * 24 * time.Hour)
	trial := &Subscription{TenantID: tenantID, PlanTier: plan.ID, ProductName: plan.Name,
		Status: SubscriptionTrialing, CurrentPeriodEnd: &end, TrialEnd: &end}
	return trial, true, tx.Subscriptions.Insert(ctx, trial)
}
