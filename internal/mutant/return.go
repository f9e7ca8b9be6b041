//go:build !mutant_return

package mutant

// ReturnOff forgets to put expired holds back on sale.
const ReturnOff = false
