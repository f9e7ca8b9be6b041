//go:build mutant_guard

package mutant

const GuardOff = true
