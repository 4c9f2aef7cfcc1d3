"""The page at ``/`` in a real browser: what it shows, how one gets about, and that nothing that was
pushed is more than text. What is looked at is kept in ``.cache/page``.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.browser import PATIENCE, PHONE, SHOTS, SMALL, chromium, opened
from tests.registry.server.gallery import fill, pushed_page
from tests.registry.server.house import House

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.peer

IMAGE = "/#/harbour/api:2.10.0"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def shown(house: House) -> House:
    fill(house)
    pushed_page(house, "zzz/hostile", "page")
    return house


@pytest.fixture
def page(browser: Browser, shown: House) -> Iterator[Page]:
    grants = ["clipboard-read", "clipboard-write"]
    with opened(browser, shown.address, permissions=grants) as one:
        yield one


def shoot(page: Page, name: str) -> None:
    """Keep what is on the screen."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    path = SHOTS / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 5000


def go(page: Page, path: str) -> None:
    """To a view, until it is there."""
    from playwright.sync_api import expect

    page.evaluate("path => { location.hash = path }", path)
    expect(page.locator("main")).to_have_attribute("data-shown", path)


def test_repositories_are_found_as_one_types(page: Page) -> None:
    from playwright.sync_api import expect

    page.goto("/")
    rows = page.locator(".repository")
    expect(rows).to_have_count(7)
    expect(rows.first).to_contain_text("harbour/api")
    expect(rows.first).to_contain_text("Berths, tides and harbour dues")
    expect(rows.first).to_contain_text(re.compile(r"6.tags"))
    shoot(page, "repositories")
    page.keyboard.press("/")
    expect(page.get_by_label("Search repositories")).to_be_focused()
    page.keyboard.type("memory")
    expect(rows).to_have_count(2)
    expect(page.get_by_role("status")).to_have_text("2 repositories.")
    assert page.url.endswith("/#/?q=memory")
    page.keyboard.type("zzz")
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    page.go_back()
    expect(rows).to_have_count(7)


def test_a_keyboard_gets_everywhere(page: Page) -> None:
    from playwright.sync_api import expect

    page.goto("/")
    rows = page.locator(".repository")
    expect(rows).to_have_count(7)
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    expect(rows.nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(rows.nth(1)).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text("harbour/api")
    expect(heading).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="docker")).to_be_focused()


def test_tags_come_newest_version_first_and_can_be_filtered(page: Page) -> None:
    from playwright.sync_api import expect

    page.goto("/#/harbour/api")
    names = page.locator(".tag-name a")
    expect(names).to_have_text(["latest", "2.10.0", "2.10.0-rc.1", "2.9.1", "1.0.0", "edge"])
    row = page.locator(".tag", has_text="2.10.0").first
    expect(row).to_contain_text("linux/arm64/v8")
    expect(row).to_contain_text(re.compile(r"1\.38.MB"))
    expect(row.locator(".attached")).to_contain_text("2")
    shoot(page, "tags")
    page.get_by_label("Order").select_option("name")
    expect(names).to_have_text(["1.0.0", "2.10.0", "2.10.0-rc.1", "2.9.1", "edge", "latest"])
    page.get_by_label("Filter tags").fill("2.1")
    expect(names).to_have_text(["2.10.0", "2.10.0-rc.1"])
    page.get_by_label("Filter tags").fill("no such")
    expect(page.get_by_text("No tag has that in its name.")).to_be_visible()


def test_a_long_list_goes_on_as_one_comes_to_its_end(page: Page) -> None:
    from playwright.sync_api import expect

    page.goto("/#/many/tags")
    names = page.locator(".tag-name a")
    expect(names).to_have_count(100)
    expect(names.first).to_have_text("1.149")
    names.last.scroll_into_view_if_needed()
    expect(names).to_have_count(150)
    expect(names.last).to_have_text("1.0")
    expect(page.get_by_role("button", name="Show more")).to_have_count(0)


def test_an_images_platforms_layers_history_and_configuration(page: Page) -> None:
    from playwright.sync_api import expect

    page.goto(IMAGE)
    platforms = page.get_by_role("navigation", name="Platforms").get_by_role("link")
    expect(platforms).to_have_count(2)
    expect(platforms.first).to_have_attribute("aria-current", "true")
    picture = page.get_by_role("img", name=re.compile("^5 layers"))
    expect(picture.locator("rect")).to_have_count(5)
    widths = picture.locator("rect").evaluate_all("all => all.map(one => one.width.baseVal.value)")
    assert widths[0] > widths[3] > widths[1] > widths[4] > widths[2] > 2
    steps = page.locator(".step")
    expect(steps).to_have_count(7)
    expect(steps.nth(4)).to_contain_text("RUNpip install --no-cache-dir -r /srv/requirements.txt")
    expect(steps.nth(4)).to_contain_text(re.compile(r"214.kB"))
    expect(page.locator(".step.empty")).to_have_count(2)
    configuration = page.locator("section", has=page.get_by_role("heading", name="Configuration"))
    expect(configuration).to_contain_text("/usr/bin/tini --")
    expect(configuration).to_contain_text("8080/tcp")
    expect(page.get_by_role("link", name="Source")).to_have_attribute(
        "href", "https://example.org/harbour"
    )
    shoot(page, "image")
    platforms.last.click()
    expect(platforms.last).to_have_attribute("aria-current", "true")
    expect(platforms.last).to_be_focused()
    expect(configuration).to_contain_text("linux/arm64/v8")
    assert page.url.endswith("?platform=linux%2Farm64%2Fv8")


def test_what_is_attached_is_told_by_kind_and_leads_there(page: Page) -> None:
    from playwright.sync_api import expect

    page.goto(IMAGE)
    attached = page.locator(".referrer-kind")
    expect(attached).to_have_text(["SBOM", "Signature", "Attestation of linux/amd64"])
    page.get_by_role("link", name="SBOM").click()
    expect(page.locator(".files")).to_contain_text("sbom.spdx.json")
    expect(page.locator(".line")).to_have_text(re.compile(r"^oras pull .*/harbour/api@sha256:"))
    page.locator(".also a").click()
    expect(page.get_by_role("navigation", name="Platforms")).to_be_visible()


def test_commands_are_copied_as_they_stand(page: Page, shown: House) -> None:
    from playwright.sync_api import expect

    page.goto(IMAGE)
    line = page.locator(".line")
    expect(line).to_have_text(f"docker pull {shown.address}/harbour/api:2.10.0")
    page.get_by_role("button", name="podman").click()
    page.get_by_label("by digest").check()
    expect(line).to_have_text(re.compile(rf"podman pull {shown.address}/harbour/api@sha256:\w+$"))
    page.get_by_role("button", name="Copy the command").click()
    expect(page.get_by_role("status")).to_have_text("Copied the command.")
    assert page.evaluate("navigator.clipboard.readText()") == line.text_content()
    page.reload()
    expect(line).to_have_text(re.compile("^podman pull"))


def test_what_was_pushed_is_text_and_never_more(page: Page, shown: House) -> None:
    from playwright.sync_api import expect

    page.goto("/")
    for path in ("#/", "#/zzz/hostile", "#/zzz/hostile:page", "#/zzz/hostile:v"):
        go(page, path)
        expect(page.locator("main h1")).to_be_visible()
        assert page.locator("main script, main img, main [onload], main [onerror]").count() == 0
    assert page.evaluate("window.hurt") is None
    expect(page.locator(".step").first).to_contain_text("<script>window.hurt=1</script>")
    expect(page.locator(".pairs").first).to_contain_text("\ufffdesrever\ufffd")
    assert page.locator("a[href^='javascript'], a[href^='data']").count() == 0
    assert page.locator(".outside").count() == 0
    shoot(page, "hostile")


def test_a_manifest_that_says_it_is_a_page_runs_nothing(browser: Browser, shown: House) -> None:
    # Chromium tells of the script that it did not run.
    with opened(browser, shown.address, allow="Blocked script execution|status of 404") as page:
        page.goto("/v2/zzz/hostile/manifests/page")
        assert page.evaluate("document.body.innerText.trim()") == "pushed"


def test_the_policy_lets_no_text_become_markup(browser: Browser, shown: House) -> None:
    tries = [
        "document.body.innerHTML = '<p>'",
        "document.body.append(Object.assign(document.createElement('script'), {text: 'hurt = 1'}))",
        "document.body.setAttribute('onclick', 'window.hurt = 1')",
    ]
    with opened(browser, shown.address, allow="Content Security Policy|Trusted") as page:
        page.goto("/")
        for text in tries:
            said = page.evaluate(
                f"(() => {{ try {{ {text}; document.body.click(); return 'taken' }} "
                "catch (error) { return error.name } })()"
            )
            # An older browser takes the attribute, and does not run what it says.
            assert said == "TypeError" or "onclick" in text, (text, said)
        assert page.evaluate("window.hurt") is None


def test_every_view_fits_a_phone_in_light_and_dark(browser: Browser, shown: House) -> None:
    views = {
        "home": "#/",
        "tags": "#/harbour/api",
        "image": IMAGE[1:],
        "hostile": "#/zzz/hostile:v",
    }
    with opened(browser, shown.address, viewport=PHONE, color_scheme="light") as page:
        page.goto("/")
        for name, path in views.items():
            go(page, path)
            wide, room = page.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert wide <= room, f"{name} is {wide} wide, the screen {room}"
        page.set_viewport_size(SMALL)
        for name in ("tags", "image"):
            go(page, views[name])
            # What a box hides of its content makes no page wider.
            cut = page.evaluate(
                """[...document.querySelectorAll("main button, main label, main input, main a")]
                .filter(one => one.getBoundingClientRect().right > innerWidth)
                .filter(one => !one.closest(".platforms")).map(one => one.outerHTML)"""
            )
            assert cut == [], name
        shoot(page, "phone-small")
        page.set_viewport_size(PHONE)
        go(page, views["image"])
        ground = "getComputedStyle(document.body).backgroundColor"
        colours = [page.evaluate(ground)]
        shoot(page, "phone")
        page.emulate_media(color_scheme="dark")
        colours.append(page.evaluate(ground))
        shoot(page, "phone-dark")
        assert colours == ["rgb(244, 246, 248)", "rgb(13, 20, 26)"]


def test_nobody_is_shut_out_by_contrast_names_or_order(browser: Browser, shown: House) -> None:
    """By the rules of axe-core (WCAG 2, levels A and AA, and its own)."""
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, shown.address, color_scheme="light") as page:
        page.goto("/")
        for path in ("#/", "#/zzz/hostile:v", "#/harbour/api", IMAGE[1:]):
            if path == "#/harbour/api":
                page.emulate_media(color_scheme="dark")
                page.set_viewport_size(PHONE)
            go(page, path)
            found = Axe().run(page).response["violations"]
            assert not found, [(one["id"], one["nodes"][0]["html"]) for one in found]


def test_what_is_not_there_is_said(browser: Browser, shown: House) -> None:
    from playwright.sync_api import expect

    with opened(browser, shown.address, allow="status of 404") as page:
        page.goto("/#/no/such")
        expect(page.get_by_role("heading", name="Not found")).to_be_visible()
        page.get_by_role("link", name="All repositories").click()
        expect(page.locator(".repository")).to_have_count(7)


@pytest.mark.parametrize("scheme", ["token", "basic"])
def test_who_has_an_account_logs_in_and_sees_what_is_his(
    browser: Browser, quick: Path, scheme: str
) -> None:
    from playwright.sync_api import expect

    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    htpasswd(place / "accounts", anna="secret")
    house = House(place / "root", "--htpasswd", f"{place}/accounts", "--auth", scheme).start()
    try:
        house.authorization = basic("anna", "secret")
        house.push("team/box", "v", b"layer")
        with opened(browser, house.address, allow="status of 401") as page:
            page.goto("/#/team/box")
            page.get_by_label("Name").fill("anna")
            page.get_by_label("Password").fill("wrong")
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_have_text("Wrong name or password.")
            page.get_by_label("Password").fill("secret")
            page.keyboard.press("Enter")
            expect(page.locator(".tag-name a")).to_have_text(["v"])
            expect(page.locator("#who")).to_contain_text("anna")
            assert page.evaluate("document.cookie") == ""
            page.reload()
            expect(page.locator(".tag-name a")).to_have_text(["v"])
            page.get_by_role("button", name="Log out").click()
            expect(page.get_by_role("heading", name="Log in")).to_be_visible()
            shoot(page, f"login-{scheme}")
    finally:
        house.close()
        shutil.rmtree(place)


def test_where_tokens_come_from_elsewhere_there_is_no_form(browser: Browser, quick: Path) -> None:
    from playwright.sync_api import expect

    from tests.registry.server.test_foreign_tokens import of_set, signer

    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    keys = of_set(place, signer("EC").jwk())
    said = ("--token-issuer", "x", "--token-realm", "https://tokens.test/auth")
    house = House(place / "root", "--token-keys", str(keys), *said).start()
    try:
        with opened(browser, house.address, allow="status of 401") as page:
            page.goto("/")
            expect(page.get_by_role("heading", name="Not for you")).to_be_visible()
            expect(page.locator("main")).to_contain_text(
                "the list of repositories needs an account"
            )
            expect(page.locator("#who")).to_be_empty()
    finally:
        house.close()
        shutil.rmtree(place)
