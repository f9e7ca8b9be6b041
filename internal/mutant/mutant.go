// Package mutant names the guarantees that a test build can switch off.
//
// A test that cannot fail proves nothing. So each guarantee has a mutant: the same
// program with that one protection removed, run as a process, and expected to fail the
// drill. Every name is a constant, and false, unless the compiler was given the tag
// mutants, so in a release the branch does not exist. In a build with that tag the
// variable HOLDFAST_MUTANTS says which of them are on: one build has all of them, since
// to build takes longer than most of the drills. `holdfast version` prints what is on.
package mutant

// Active lists the mutants that are on, by their names. Empty in every release.
func Active() []string {
	var on []string
	for _, m := range []struct {
		on   bool
		name string
	}{
		{StoreCheckOff, "mutant_store"},
		{CondOff, "mutant_cond"},
		{CheckOff, "mutant_check"},
		{IdempotencyOff, "mutant_idem"},
		{SyncOff, "mutant_nosync"},
		{AskOff, "mutant_ask"},
		{LimitOff, "mutant_limit"},
		{ReturnOff, "mutant_return"},
		{HoldLost, "mutant_lost"},
		{DrainOff, "mutant_drain"},
		{CutOff, "mutant_cut"},
		{LogSyncOff, "mutant_nofsync"},
		{LateVerify, "mutant_lateverify"},
		{GateOff, "mutant_gateoff"},
		{NoVerify, "mutant_noverify"},
		{Early, "mutant_early"},
		{NoFullSync, "mutant_nofullsync"},
		{StayWithFirst, "mutant_stay"},
		{AnyPassword, "mutant_anypassword"},
		{RefusedTakes, "mutant_refusedtakes"},
		{TakesPart, "mutant_takespart"},
		{LeaseKept, "mutant_leasekept"},
		{FullShare, "mutant_fullshare"},
		{LeaseEndless, "mutant_leaseendless"},
		{BackTwice, "mutant_backtwice"},
		{LeaseUntold, "mutant_leaseuntold"},
		{Uncounted, "mutant_uncounted"},
		{HalfWait, "mutant_halfwait"},
		{ReservedAgain, "mutant_reservedagain"},
		{CircuitOff, "mutant_circuit"},
		{HalfReload, "mutant_halfreload"},
		{ReplayClock, "mutant_replayclock"},
		{GuardOff, "mutant_guard"},
		{MarkLost, "mutant_mark"},
		{LineOff, "mutant_line"},
		{LossUntold, "mutant_untold"},
		{ReportsLost, "mutant_reports"},
		{CallersTime, "mutant_callerstime"},
		{GuardIdle, "mutant_door"},
		{RunsOn, "mutant_runson"},
		{RepeatNew, "mutant_repeatnew"},
		{StaysInLine, "mutant_ghost"},
		{PlaceLost, "mutant_place"},
		{StoreAwaited, "mutant_patient"},
		{WaitEndless, "mutant_endless"},
		{SharesOff, "mutant_shares"},
	} {
		if m.on {
			on = append(on, m.name)
		}
	}
	return on
}
