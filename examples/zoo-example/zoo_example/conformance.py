"""What the conformance kit asks that cannot be so on a sphere, with the reason."""

of_area = "a density of area on the sphere, which has no volume in the space around it"
flat = "Stein's identity is one of flat space; on the sphere this density has no slope at all"

EXPECTED_FAILURES = {
    "power_spherical::sums_to_one": of_area,
    "power_spherical::draws": of_area,
    "uniform_sphere::sums_to_one": of_area,
    "uniform_sphere::draws": of_area,
    "uniform_sphere::score_of_draws": flat,
}
