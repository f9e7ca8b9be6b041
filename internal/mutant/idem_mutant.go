//go:build mutant_idem

package mutant

const IdempotencyOff = true
