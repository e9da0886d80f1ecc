package hostdb

import (
	"context"
	"time"
)

// GlobalUser is a person who can sign in (core_users). Memberships say which tenants they may reach.
type GlobalUser struct {
	ID           string
	Email        string     // required; unique without regard to the case of ASCII letters
	OAuthID      string     // the subject at the identity provider; unique where present
	PasswordHash Secret     // left out by [DB.Access], and so by a Scope; such a row can't be written back
	StripeCustID string     // the Stripe customer
	IsSysAdmin   bool       // for the product's own use; it grants nothing in this library
	CreatedAt    time.Time  // default now
	LastLogin    *time.Time // a change of it alone isn't delivered by [DB.Changes]

	partial bool // read by Access without PasswordHash
}

// NewUser returns a user with an id and an e-mail address. oauthID is the subject at the identity provider,
// or "". Insert stores the user.
func NewUser(email, oauthID string) *GlobalUser {
	return &GlobalUser{ID: NewID(), Email: email, OAuthID: oauthID}
}

var userRelation = relation[GlobalUser]{
	table: "core_users", subject: "user", foreignKey: "user_id", unique: []string{"oauth_id"},
	referrers: []reference{{"user_id", "core_memberships"}},
	columns: []column[GlobalUser]{
		{"id", func(u *GlobalUser) any { return &u.ID }, idRule},
		{"email", func(u *GlobalUser) any { return &u.Email },
			rule{required: true, maxBytes: maxEmail, personal: true}},
		{"oauth_id", func(u *GlobalUser) any { return &u.OAuthID }, rule{personal: true}},
		{"password_hash", func(u *GlobalUser) any { return &u.PasswordHash }, rule{masked: true}},
		{"stripe_cust_id", func(u *GlobalUser) any { return &u.StripeCustID }, rule{personal: true}},
		{"is_sys_admin", func(u *GlobalUser) any { return &u.IsSysAdmin }, anyBool},
		{"created_at", func(u *GlobalUser) any { return &u.CreatedAt }, anyTime},
		{"last_login", func(u *GlobalUser) any { return &u.LastLogin }, anyTime},
	},
	defaults: func(*GlobalUser) {},
	owner:    func(u *GlobalUser) string { return u.ID },
	check: func(u *GlobalUser) error {
		if u.partial {
			return invalid("password_hash",
				"the row lacks it, as those of Access and of a Scope do, and would erase it; "+
					"use Users.Change, or write the row of Users.Get")
		}
		return nil
	},
}

// Users is the table of users.
type Users struct{ Table[GlobalUser] }

// ByEmail returns the user with this address. The case of ASCII letters is ignored. Errors: ErrNotFound;
// ErrInvalid.
func (t Users) ByEmail(ctx context.Context, email string) (*GlobalUser, error) {
	if err := (rule{required: true, maxBytes: maxEmail}).checkText("email", email); err != nil {
		return nil, err
	}
	return t.one(ctx, "WHERE lower(email) = $1", foldASCII(email))
}

// ByOAuthID returns the user with this subject at the identity provider. Errors: ErrNotFound; ErrInvalid.
func (t Users) ByOAuthID(ctx context.Context, oauthID string) (*GlobalUser, error) {
	if err := (rule{required: true}).checkText("oauth_id", oauthID); err != nil {
		return nil, err
	}
	return t.one(ctx, "WHERE oauth_id = $1", oauthID)
}

// ByStripeCustID returns the users of a Stripe customer, at most 1,000, ordered by id. Errors: ErrInvalid.
func (t Users) ByStripeCustID(ctx context.Context, customer string) ([]*GlobalUser, error) {
	return t.List(ctx, Where("stripe_cust_id", customer))
}

// RecordLogin sets LastLogin to now and writes the audit row "user.login". Errors: ErrNotFound; ErrInvalid.
func (t Users) RecordLogin(ctx context.Context, id string) error {
	if err := t.r.checkID(id); err != nil {
		return err
	}
	return t.s.write(ctx, func(tx *Tx) error {
		touched, err := tx.Users.s.exec(ctx, "UPDATE core_users SET last_login = $1 WHERE id = $2",
			[]any{tx.db.engine.time(tx.db.now()), id}, asReported)
		if err == nil && touched == 0 {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		return record(ctx, tx, "user.login", id, "")
	})
}

// foldASCII lowers the ASCII letters, as lower() does here on both engines.
func foldASCII(s string) string {
	folded := []byte(s)
	for i, c := range folded {
		if 'A' <= c && c <= 'Z' {
			folded[i] = c + 'a' - 'A'
		}
	}
	return string(folded)
}
