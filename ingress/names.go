package ingress

// rulePriority is that of the routing rules by mark, before the main table and
// after the local one. Each mark's table has the number of the mark.
const rulePriority = 540

// routeProtocol tells the routes made here from all others ("proto 84" in ip
// route); fabric, which removes those of its own that no host needs, has 83.
const routeProtocol = 84
