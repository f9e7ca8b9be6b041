//go:build mutant_cut

package mutant

const CutOff = true
