package stripehook

import (
	"context"
	"errors"

	"github.com/tenantdb/tenantdb/hostdb"
)

// keepCustomer stores Stripe's customer id on the user who pays, if that user has none yet.
func (w *work) keepCustomer(ctx context.Context, tenantID string) error {
	if w.customer == "" {
		return nil
	}
	id, err := w.payer(ctx, tenantID)
	if err != nil || id == "" {
		return err
	}
	user, err := w.tx.Users.Lock(ctx, id)
	if err != nil || user.StripeCustID != "" {
		return err
	}
	user.StripeCustID = w.customer
	return w.tx.Users.Update(ctx, user)
}

// payer returns the id of the tenant's member who pays, or "" if that is not certain: the wrong user would
// see another's bills. It is the user that the metadata names as user_id. Otherwise, for a Checkout session
// that the product made, it is the member with the session's e-mail address, or the only owner.
func (w *work) payer(ctx context.Context, tenantID string) (string, error) {
	if w.user != "" || !w.checkout || w.link {
		return w.member(ctx, w.user, tenantID)
	}
	if w.email != "" {
		user, err := w.tx.Users.ByEmail(ctx, w.email)
		if err == nil {
			id, err := w.member(ctx, user.ID, tenantID)
			if id != "" || err != nil {
				return id, err
			}
		} else if !errors.Is(err, hostdb.ErrNotFound) {
			return "", err
		}
	}
	owners, err := w.tx.Memberships.List(ctx, hostdb.Where("tenant_id", tenantID),
		hostdb.Where("role", hostdb.RoleOwner),
		hostdb.Where("is_active", true), hostdb.Limit(2))
	if err != nil || len(owners) != 1 {
		return "", err
	}
	return owners[0].UserID, nil
}

// member returns the user's id if they are a member of the tenant, else "".
func (w *work) member(ctx context.Context, userID, tenantID string) (string, error) {
	if userID == "" {
		return "", nil
	}
	_, err := w.tx.Memberships.Find(ctx, userID, tenantID)
	if errors.Is(err, hostdb.ErrNotFound) {
		return "", nil
	}
	return userID, err
}
