import json

import pytest

from medsam_adapt.report.markup import Markup, element, embedded_json, join


def test_text_and_attributes_are_escaped_once_and_markup_is_not():
    inner = element("b", "<1 & 2>")
    assert inner == "<b>&lt;1 &amp; 2&gt;</b>"
    assert element("p", inner, "<", None, class_='"x', data_show="'", hidden=False) == (
        '<p class="&quot;x" data-show="&#x27;"><b>&lt;1 &amp; 2&gt;</b>&lt;</p>'
    )
    assert isinstance(join(inner, "<"), Markup)
    assert element("img", alt="<") == '<img alt="&lt;">'


@pytest.mark.parametrize("text", ["</script><script>alert(1)</script>", "<!--", "&lt;", "\u2028", "leber\u00f6"])
def test_embedded_json_cannot_end_its_script_and_says_the_same(text):
    embedded = embedded_json({text: [text]})
    assert not set(embedded) & set("<>&\u2028")
    assert json.loads(embedded) == {text: [text]}
