package ingress

// rulePriority is that of the routing rules by mark, before the main table and
// after the local one. Each mark's table has the number of the mark. There is a rule
// for each other host, and the kernel looks at one after the other: so a rule
// before them leads what has none of the marks past them, to one that does
// nothing.
const (
	pastPriority = rulePriority - 1
	rulePriority = 540
	nextPriority = rulePriority + 1
)

// routeProtocol tells the routes made here from all others ("proto 84" in ip
// route); fabric, which removes those of its own that no host needs, has 83.
const routeProtocol = 84
