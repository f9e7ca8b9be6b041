//go:build mutant_stay

package mutant

const StayWithFirst = true
