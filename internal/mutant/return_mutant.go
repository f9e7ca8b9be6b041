//go:build mutant_return

package mutant

const ReturnOff = true
