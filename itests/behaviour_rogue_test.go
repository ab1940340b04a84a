package itests

// rogueVariable makes this program a worker that breaks the rules.
const rogueVariable = "ITEST_ROGUE"

func rogue(mode string) {}
