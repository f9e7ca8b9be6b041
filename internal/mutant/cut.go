//go:build !mutant_cut

package mutant

// CutOff makes a backup's two halves of two moments.
const CutOff = false
