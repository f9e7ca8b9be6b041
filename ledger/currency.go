package ledger

import "strings"

// The active codes of ISO 4217 by how many digits a minor unit has.
var exponents = func() map[string]int {
	m := map[string]int{}
	for exponent, codes := range map[int]string{
		0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
		3: "BHD IQD JOD KWD LYD OMR TND",
		4: "CLF UYW",
		2: `AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD
			CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP
			GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK
			LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO
			NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS
			SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST
			XCD XCG YER ZAR ZMW ZWG`,
	} {
		for _, code := range strings.Fields(codes) {
			m[code] = exponent
		}
	}
	return m
}()

// Currency tells how many digits the minor unit of an ISO 4217 code has (EUR 2, JPY 0), and
// whether the code is one that money is kept in.
func Currency(code string) (exponent int, ok bool) {
	exponent, ok = exponents[code]
	return exponent, ok
}
