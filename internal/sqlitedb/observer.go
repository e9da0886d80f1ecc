package sqlitedb

import "context"

// observeWait tells the observer, if there is one, that a caller waits. end is called after the wait.
func (s *Files) observeWait(ctx context.Context, tenantID string) (end func(error)) {
	if o := s.cfg.Observer; o != nil {
		_, end = o.Wait(ctx, tenantID, "")
		return end
	}
	return func(error) {}
}

// dial opens a connection to the file, of which the observer is told.
func (f *DB) dial(ctx context.Context, option string) (*fileConn, error) {
	o := f.files.cfg.Observer
	if o == nil {
		return f.connect(ctx, option)
	}
	end := o.Open(ctx, f.tenant.ID, "")
	conn, err := f.connect(ctx, option)
	end(err)
	return conn, err
}

// Close closes the connection, of which the observer is told. The caller holds no lock.
func (c *fileConn) Close() error {
	err := c.disconnect()
	if o := c.db.files.cfg.Observer; o != nil {
		o.Closed(c.db.tenant.ID, "", err)
	}
	return err
}
