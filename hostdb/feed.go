package hostdb

// feed is the change feed of a DB.
type feed struct{ db *DB }

func newFeed(db *DB) *feed { return &feed{db: db} }

func (f *feed) committed() {}

func (f *feed) wait() {}
