//go:build !mutant_idem

package mutant

// IdempotencyOff forgets stored answers, so a repeat is a new request.
const IdempotencyOff = false
