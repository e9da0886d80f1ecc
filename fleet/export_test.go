package fleet

// WithoutSecrets is withoutSecrets.
var WithoutSecrets = withoutSecrets
