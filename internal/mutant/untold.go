//go:build !mutant_untold

package mutant

// LossUntold tells nobody that a lease has ended.
const LossUntold = false
