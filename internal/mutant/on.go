//go:build mutants

package mutant

import (
	"os"
	"slices"
	"strings"
)

// variable names the mutants of a process, with commas. Its children have them too.
const variable = "HOLDFAST_MUTANTS"

var named = strings.FieldsFunc(os.Getenv(variable), func(r rune) bool { return r == ',' })

func on(name string) bool { return slices.Contains(named, name) }

func init() {
	if len(Active()) != len(named) {
		panic(variable + " names what is no mutant: " + strings.Join(named, ","))
	}
}

var (
	StoreCheckOff  = on("mutant_store")
	CondOff        = on("mutant_cond")
	CheckOff       = on("mutant_check")
	IdempotencyOff = on("mutant_idem")
	SyncOff        = on("mutant_nosync")
	AskOff         = on("mutant_ask")
	LimitOff       = on("mutant_limit")
	ReturnOff      = on("mutant_return")
	HoldLost       = on("mutant_lost")
	DrainOff       = on("mutant_drain")
	CutOff         = on("mutant_cut")
	LogSyncOff     = on("mutant_nofsync")
	LateVerify     = on("mutant_lateverify")
	GateOff        = on("mutant_gateoff")
	NoVerify       = on("mutant_noverify")
	Early          = on("mutant_early")
	NoFullSync     = on("mutant_nofullsync")
	StayWithFirst  = on("mutant_stay")
	AnyPassword    = on("mutant_anypassword")
	RefusedTakes   = on("mutant_refusedtakes")
	TakesPart      = on("mutant_takespart")
	LeaseKept      = on("mutant_leasekept")
	FullShare      = on("mutant_fullshare")
	LeaseEndless   = on("mutant_leaseendless")
	BackTwice      = on("mutant_backtwice")
	LeaseUntold    = on("mutant_leaseuntold")
	Uncounted      = on("mutant_uncounted")
	HalfWait       = on("mutant_halfwait")
	ReservedAgain  = on("mutant_reservedagain")
	CircuitOff     = on("mutant_circuit")
	HalfReload     = on("mutant_halfreload")
	ReplayClock    = on("mutant_replayclock")
	GuardOff       = on("mutant_guard")
	MarkLost       = on("mutant_mark")
	LineOff        = on("mutant_line")
	LossUntold     = on("mutant_untold")
	ReportsLost    = on("mutant_reports")
	CallersTime    = on("mutant_callerstime")
	GuardIdle      = on("mutant_door")
	RunsOn         = on("mutant_runson")
	RepeatNew      = on("mutant_repeatnew")
	StaysInLine    = on("mutant_ghost")
	PlaceLost      = on("mutant_place")
	StoreAwaited   = on("mutant_patient")
	WaitEndless    = on("mutant_endless")
	SharesOff      = on("mutant_shares")
)
