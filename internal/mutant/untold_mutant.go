//go:build mutant_untold

package mutant

const LossUntold = true
