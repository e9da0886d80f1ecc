package tenantdb

// What tests of package tenantdb_test need from inside.
var VectorDir = vectorDir
